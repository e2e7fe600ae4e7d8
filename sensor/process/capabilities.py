"""Capabilities of this process (capabilities(7)): which it has, and dropping those it does not need.

Runs in every process of ``sensor run``, and in ``sensor doctor``.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NEEDED = ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW")
"""To load the program, to use rings, to attach, and to see frames for other hosts (promiscuous mode)."""

_BITS = {
    "CAP_DAC_READ_SEARCH": 2,
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
    bits = _effective()
    held = {name for name, bit in _BITS.items() if bits >> bit & 1}
    return held | _BY_SYS_ADMIN if "CAP_SYS_ADMIN" in held else held


def missing_capabilities() -> list[str]:
    """Return the capabilities this process lacks for capturing."""
    held = held_capabilities()
    return [name for name in NEEDED if name not in held]


def keep_capabilities(*names: str) -> None:
    """Drop all other capabilities for good, as a process that parses untrusted bytes should.

    Raises:
        OSError: A system call filter (seccomp) refuses capset(2); the kernel itself never does.
    """
    kept = _effective() & sum(1 << _BITS[name] for name in names)
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)  # effective, permitted, inheritable
    if _libc.capset(header, data):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _effective() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
