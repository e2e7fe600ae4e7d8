"""System calls that Python and BCC do not wrap, through ctypes; runs in the supervisor and in tests.

Structures follow linux/bpf.h and linux/perf_event.h; every call raises `OSError` with the
kernel's errno. Tested on x86-64; the numbers for arm64 are those of its syscall table.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import Any

_NUMBERS = {
    "x86_64": {"bpf": 321, "perf_event_open": 298},
    "aarch64": {"bpf": 280, "perf_event_open": 241},
}

BPF_MAP_CREATE = 0
BPF_MAP_LOOKUP_ELEM = 1
BPF_MAP_UPDATE_ELEM = 2
BPF_PROG_LOAD = 5
BPF_PROG_TEST_RUN = 10
BPF_MAP_UPDATE_BATCH = 26
BPF_LINK_CREATE = 28
BPF_LINK_UPDATE = 29
BPF_LINK_DETACH = 34
BPF_MAP_TYPE_ARRAY = 2
BPF_MAP_TYPE_PERCPU_ARRAY = 6
BPF_F_MMAPABLE = 1 << 10
BPF_PROG_TYPE_XDP = 6
BPF_XDP = 37
BPF_F_XDP_HAS_FRAGS = 1 << 5
BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1

PERF_TYPE_SOFTWARE = 1
PERF_COUNT_SW_BPF_OUTPUT = 10
PERF_SAMPLE_RAW = 1 << 10
PERF_ATTR_WATERMARK = 1 << 14
PERF_FLAG_FD_CLOEXEC = 8

CLONE_NEWNET = 0x40000000

_TIMEX_BYTES = 208
_TIME_ERROR = 5
_VERIFIER_LOG_BYTES = 1 << 24
_VERIFIER_WORDS = 60
_LIVE_BATCH = 64

_libc = ctypes.CDLL(None, use_errno=True)


class MapCreateAttr(ctypes.Structure):
    """``bpf_attr`` of ``BPF_MAP_CREATE``, as far as it is used here."""

    _fields_ = (
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("map_name", ctypes.c_char * 16),
    )


class MapElementAttr(ctypes.Structure):
    """``bpf_attr`` of the commands on one element of a map."""

    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class MapBatchAttr(ctypes.Structure):
    """``bpf_attr.batch``."""

    _fields_ = (
        ("in_batch", ctypes.c_uint64),
        ("out_batch", ctypes.c_uint64),
        ("keys", ctypes.c_uint64),
        ("values", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("map_fd", ctypes.c_uint32),
        ("elem_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class ProgLoadAttr(ctypes.Structure):
    """``bpf_attr`` of ``BPF_PROG_LOAD``, as far as it is used here."""

    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
    )


class LinkUpdateAttr(ctypes.Structure):
    """``bpf_attr.link_update``."""

    _fields_ = (
        ("link_fd", ctypes.c_uint32),
        ("new_prog_fd", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("old_prog_fd", ctypes.c_uint32),
    )


class LinkDetachAttr(ctypes.Structure):
    """``bpf_attr.link_detach``."""

    _fields_ = (("link_fd", ctypes.c_uint32),)


class LinkCreateAttr(ctypes.Structure):
    """``bpf_attr.link_create``."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class TestRunAttr(ctypes.Structure):
    """``bpf_attr.test``."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class PerfEventAttr(ctypes.Structure):
    """``perf_event_attr`` up to ``PERF_ATTR_SIZE_VER5`` (112 bytes)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_watermark", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("rest", ctypes.c_uint64 * 7),
    )


def _call(name: str, *arguments: Any) -> int:
    result = int(_libc.syscall(_NUMBERS[os.uname().machine][name], *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def bpf(command: int, attr: ctypes.Structure) -> int:
    """Run a command of bpf(2); what it returns, most often a file descriptor."""
    return _call("bpf", command, ctypes.byref(attr), ctypes.sizeof(attr))


def link_create_xdp(prog_fd: int, ifindex: int, flags: int) -> int:
    """Attach a program to an interface by a BPF link; the kernel detaches it when the last fd is closed."""
    return bpf(BPF_LINK_CREATE, LinkCreateAttr(prog_fd, ifindex, BPF_XDP, flags))


def link_update(link_fd: int, prog_fd: int) -> None:
    """Put another program in the place of a link's: every frame meets the old one or the new one."""
    bpf(BPF_LINK_UPDATE, LinkUpdateAttr(link_fd, prog_fd))


def link_detach(link_fd: int) -> None:
    """Detach a link's program now (Linux 5.9), whoever else has the link open."""
    bpf(BPF_LINK_DETACH, LinkDetachAttr(link_fd))


def xdp_load(name: str, code: bytes, flags: int) -> int:
    """Load an XDP program (GPL) of eBPF instructions; its fd.

    Raises `OSError`; where the verifier refuses, the end of its log is the error's ``filename``.
    """
    instructions = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(b"GPL")
    attr = ProgLoadAttr(
        prog_type=BPF_PROG_TYPE_XDP,
        insn_cnt=len(code) // 8,
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(license_text),
        prog_flags=flags,
        prog_name=name.encode(),
        expected_attach_type=BPF_XDP,
    )
    try:
        return bpf(BPF_PROG_LOAD, attr)
    except OSError as error:
        log = ctypes.create_string_buffer(_VERIFIER_LOG_BYTES)
        attr.log_level, attr.log_size, attr.log_buf = 1, len(log), ctypes.addressof(log)
        with suppress(OSError):
            os.close(bpf(BPF_PROG_LOAD, attr))
        error.filename = " ".join(log.value.decode(errors="replace").split()[-_VERIFIER_WORDS:])
        raise


def prog_test_run(prog_fd: int, frame: bytes, repeat: int = 1) -> int:
    """Run an XDP program over ``frame`` (14 bytes or more); its last action (``BPF_PROG_TEST_RUN``)."""
    return int(_test_run(prog_fd, frame, repeat=repeat).retval)


def prog_time_ns(prog_fd: int, frame: bytes, repeat: int) -> int:
    """Run an XDP program so many times over ``frame``; the nanoseconds that one run takes."""
    return int(_test_run(prog_fd, frame, repeat=repeat).duration)


def prog_send(prog_fd: int, frame: bytes, count: int) -> None:
    """Let an XDP program send ``frame`` so many times for real, as it says (Linux 5.18 and newer).

    Its changes of the frame may be there the next time. Takes some ten milliseconds more than the sending.
    """
    flags, batch_size = BPF_F_TEST_XDP_LIVE_FRAMES, _LIVE_BATCH
    _test_run(prog_fd, frame, repeat=count, flags=flags, batch_size=batch_size)


def _test_run(prog_fd: int, frame: bytes, **options: int) -> TestRunAttr:
    data = ctypes.create_string_buffer(frame, len(frame))
    attr = TestRunAttr(
        prog_fd=prog_fd, data_size_in=len(frame), data_in=ctypes.addressof(data), **{"repeat": 1, **options}
    )
    bpf(BPF_PROG_TEST_RUN, attr)
    return attr


def perf_event_open(attr: PerfEventAttr, cpu: int) -> int:
    """Open a perf event for all processes on one CPU; its fd (perf_event_open(2))."""
    return _call("perf_event_open", ctypes.byref(attr), -1, cpu, -1, PERF_FLAG_FD_CLOEXEC)


def clock_is_synchronised() -> bool | None:
    """Whether somebody keeps the wall clock right: a time service tells the kernel so (adjtimex(2)).

    None where this process may not ask, as in services that are kept from the clock.
    """
    state = int(_libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))  # all zeroes: nothing is set
    return None if state < 0 else state != _TIME_ERROR


def unshare(flags: int) -> None:
    """Leave shared namespaces by unshare(2): ``os.unshare`` exists from Python 3.12 on only."""
    if _libc.unshare(flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def setns(fd: int, flags: int) -> None:
    """Enter a namespace by setns(2): ``os.setns`` exists from Python 3.12 on only."""
    if _libc.setns(fd, flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
