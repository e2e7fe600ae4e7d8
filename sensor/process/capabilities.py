"""Capabilities of this process (capabilities(7)): which it has, and dropping those it does not need.

Runs in every process of ``sensor run``, and in ``sensor doctor``.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sensor.process.prctl import drop_from_bounding_set, lower_ambient

NEEDED = ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW")
"""To load the program, to use rings, to attach, and to see frames for other hosts (promiscuous mode)."""

_BITS = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)
_BY_SYS_ADMIN = {"CAP_BPF", "CAP_PERFMON"}


def held_capabilities() -> set[str]:
    """Return the effective capabilities that matter here; CAP_SYS_ADMIN implies those it includes."""
    bits = _field("CapEff")
    held = {name for name, bit in _BITS.items() if bits >> bit & 1}
    return held | _BY_SYS_ADMIN if "CAP_SYS_ADMIN" in held else held


def missing_capabilities() -> list[str]:
    """Return the capabilities this process lacks for capturing."""
    held = held_capabilities()
    return [name for name in NEEDED if name not in held]


def keep_capabilities(*names: str) -> None:
    """Drop all other capabilities for good, as a process that parses untrusted bytes should.

    The named ones become effective, if this process has them at all.

    Raises:
        OSError: A system call filter (seccomp) refuses capset(2); the kernel itself never does.
    """
    kept = _field("CapPrm") & sum(1 << _BITS[name] for name in names)
    if _field("CapPrm") or _field("CapInh"):  # a service without capabilities need not allow the call
        _set(effective=kept, permitted=kept)


@contextmanager
def without_capabilities() -> Iterator[None]:
    """Let this thread act without capabilities for a while."""
    effective, permitted = _field("CapEff"), _field("CapPrm")
    if not effective:  # a service without capabilities need not allow the call
        yield
        return
    _set(effective=0, permitted=permitted)
    try:
        yield
    finally:
        _set(effective=effective, permitted=permitted)


def _set(*, effective: int, permitted: int) -> None:
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    words = [bits >> shift & 0xFFFFFFFF for shift in (0, 32) for bits in (effective, permitted, 0)]
    if _libc.capset(header, (ctypes.c_uint32 * 6)(*words)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def pass_on(*names: str) -> None:
    """Pass no other capabilities on to programs started from here on, unless this is root; keep our own."""
    ambient = _field("CapAmb") & ~sum(1 << _BITS[name] for name in names)
    for bit in _bits(ambient):
        lower_ambient(bit)


def empty_bounding_set() -> None:
    """Let no program started from here on gain a capability.

    Raises:
        OSError: CAP_SETPCAP is missing, and the set is not empty.
    """
    for bit in _bits(_field("CapBnd")):
        drop_from_bounding_set(bit)


def _bits(mask: int) -> list[int]:
    """Return the numbers of the bits that are set."""
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


def _field(name: str) -> int:
    """Return a set of capabilities of this thread, such as ``CapEff``, as bits (proc_pid_status(5))."""
    status = Path("/proc/thread-self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(f"{name}:")).split()[1], 16)
