"""System calls that Python and BCC do not wrap, through ctypes; runs in the supervisor and in tests.

Structures follow linux/bpf.h and linux/perf_event.h; every call raises `OSError` with the
kernel's errno. Tested on x86-64; the numbers for arm64 are those of its syscall table.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

_NUMBERS = {
    "x86_64": {"bpf": 321, "perf_event_open": 298, "membarrier": 324},
    "aarch64": {"bpf": 280, "perf_event_open": 241, "membarrier": 283},
}

BPF_PROG_TEST_RUN = 10
BPF_LINK_CREATE = 28
BPF_XDP = 37

PERF_TYPE_SOFTWARE = 1
PERF_COUNT_SW_BPF_OUTPUT = 10
PERF_SAMPLE_RAW = 1 << 10
PERF_ATTR_WATERMARK = 1 << 14
PERF_FLAG_FD_CLOEXEC = 8

MEMBARRIER_CMD_GLOBAL_EXPEDITED = 2

CLONE_NEWNET = 0x40000000

_KEEPS_STORE_ORDER = os.uname().machine == "x86_64"

_libc = ctypes.CDLL(None, use_errno=True)


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


def prog_test_run(prog_fd: int, frame: bytes) -> int:
    """Run an XDP program once over ``frame`` (14 bytes or more); its action (``BPF_PROG_TEST_RUN``)."""
    data = ctypes.create_string_buffer(frame, len(frame))
    attr = TestRunAttr(prog_fd=prog_fd, data_size_in=len(frame), data_in=ctypes.addressof(data), repeat=1)
    bpf(BPF_PROG_TEST_RUN, attr)
    return int(attr.retval)


def perf_event_open(attr: PerfEventAttr, cpu: int) -> int:
    """Open a perf event for all processes on one CPU; its fd (perf_event_open(2))."""
    return _call("perf_event_open", ctypes.byref(attr), -1, cpu, -1, PERF_FLAG_FD_CLOEXEC)


def memory_barrier() -> None:
    """Order the loads and stores before against those after, where the machine does not by itself."""
    if not _KEEPS_STORE_ORDER:
        _call("membarrier", MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0)


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
