"""System calls that neither Python nor BCC wraps, called through ctypes.

Runs in the supervisor, in benchmarks and in tests. Every call raises `OSError` with the kernel's errno.
Tested on x86-64; the numbers for arm64 are from its system call table and untested.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import Any

from sensor.capture.kernel_structs import (
    BPF_F_TEST_XDP_LIVE_FRAMES,
    BPF_LINK_CREATE,
    BPF_LINK_DETACH,
    BPF_LINK_UPDATE,
    BPF_PROG_LOAD,
    BPF_PROG_TEST_RUN,
    BPF_PROG_TYPE_XDP,
    BPF_XDP,
    PERF_FLAG_FD_CLOEXEC,
    LinkCreateAttr,
    LinkDetachAttr,
    LinkUpdateAttr,
    PerfEventAttr,
    ProgLoadAttr,
    TestRunAttr,
)

_NUMBERS = {
    "x86_64": {"bpf": 321, "perf_event_open": 298},
    "aarch64": {"bpf": 280, "perf_event_open": 241},
}

CLONE_NEWNET = 0x40000000

_TIMEX_BYTES = 208
_TIME_ERROR = 5
_VERIFIER_LOG_BYTES = 1 << 24
_VERIFIER_WORDS = 60
_LIVE_BATCH = 64

_libc = ctypes.CDLL(None, use_errno=True)


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
