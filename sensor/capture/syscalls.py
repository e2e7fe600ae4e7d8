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
    BPF_PROG_GET_FD_BY_ID,
    BPF_PROG_LOAD,
    BPF_PROG_TEST_RUN,
    BPF_PROG_TYPE_XDP,
    BPF_XDP,
    PERF_FLAG_FD_CLOEXEC,
    GetIdAttr,
    LinkCreateAttr,
    LinkDetachAttr,
    LinkUpdateAttr,
    PerfEventAttr,
    ProgLoadAttr,
    TestRunAttr,
    XdpContext,
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
    """Run a command of bpf(2) and return its result, usually a file descriptor."""
    return _call("bpf", command, ctypes.byref(attr), ctypes.sizeof(attr))


def link_create_xdp(prog_fd: int, ifindex: int, flags: int) -> int:
    """Attach a program to an interface and return the fd of the BPF link.

    The kernel detaches the program when the last fd of the link is closed.
    """
    return bpf(BPF_LINK_CREATE, LinkCreateAttr(prog_fd, ifindex, BPF_XDP, flags))


def link_update(link_fd: int, prog_fd: int) -> None:
    """Replace the program of a link. Every frame meets either the old program or the new one."""
    bpf(BPF_LINK_UPDATE, LinkUpdateAttr(link_fd, prog_fd))


def link_detach(link_fd: int) -> None:
    """Detach the program of a link now (Linux 5.9), even if other processes have the link open."""
    bpf(BPF_LINK_DETACH, LinkDetachAttr(link_fd))


def xdp_load(name: str, code: bytes, flags: int) -> int:
    """Load an XDP program (GPL), given as eBPF instructions, and return its fd.

    Raises:
        OSError: The kernel refused. If the verifier did, the end of its log is the error's ``filename``.
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
    """Run an XDP program on a frame and return its last action (``BPF_PROG_TEST_RUN``).

    The frame must have at least 14 bytes.
    """
    return int(_test_run(prog_fd, frame, repeat=repeat).retval)


def prog_open(program_id: int) -> int:
    """Return a file descriptor of a loaded program; needs CAP_SYS_ADMIN."""
    return bpf(BPF_PROG_GET_FD_BY_ID, GetIdAttr(id=program_id))


def prog_receive(prog_fd: int, frame: bytes, ifindex: int) -> int:
    """Run an XDP program on a frame as if an interface had received it.

    Returns the program's action, which is not carried out.
    """
    context = XdpContext(data_end=len(frame), ingress_ifindex=ifindex)
    given = {"ctx_in": ctypes.addressof(context), "ctx_size_in": ctypes.sizeof(context)}
    return int(_test_run(prog_fd, frame, **given).retval)


def prog_time_ns(prog_fd: int, frame: bytes, repeat: int) -> int:
    """Run an XDP program ``repeat`` times on a frame, and return the nanoseconds of one run."""
    return int(_test_run(prog_fd, frame, repeat=repeat).duration)


def prog_send(prog_fd: int, frame: bytes, count: int) -> None:
    """Run an XDP program ``count`` times on a frame, and carry out its actions (Linux 5.18 and newer).

    The program's changes of the frame may still be in it at the next run. The call takes some ten
    milliseconds more than the sending itself.
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
    """Open a perf event for all processes on one CPU, and return its fd (perf_event_open(2))."""
    return _call("perf_event_open", ctypes.byref(attr), -1, cpu, -1, PERF_FLAG_FD_CLOEXEC)


def clock_is_synchronised() -> bool | None:
    """Return True if a time service keeps the wall clock synchronised, as it tells the kernel (adjtimex(2)).

    None if this process may not ask, as in a service without access to the clock.
    """
    state = int(_libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))  # all zeroes: read only
    return None if state < 0 else state != _TIME_ERROR


def unshare(flags: int) -> None:
    """Leave shared namespaces with unshare(2); ``os.unshare`` needs Python 3.12."""
    if _libc.unshare(flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def setns(fd: int, flags: int) -> None:
    """Enter a namespace with setns(2); ``os.setns`` needs Python 3.12."""
    if _libc.setns(fd, flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
