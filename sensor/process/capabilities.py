"""What this process may ask of the kernel (capabilities(7)); for ``sensor run`` and ``sensor doctor``."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NEEDED = ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW")
"""To load, to submit to rings, to attach, and to have frames for other hosts."""

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
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)
_BY_SYS_ADMIN = {"CAP_BPF", "CAP_PERFMON"}


def held_capabilities() -> set[str]:
    """Return those in force, of the ones that matter here; CAP_SYS_ADMIN counts for what it includes."""
    bits = _effective()
    held = {name for name, bit in _BITS.items() if bits >> bit & 1}
    return held | _BY_SYS_ADMIN if "CAP_SYS_ADMIN" in held else held


def missing_capabilities() -> list[str]:
    """Return what this process lacks for capturing."""
    held = held_capabilities()
    return [name for name in NEEDED if name not in held]


def keep_capabilities(*names: str) -> None:
    """Give up all others, for good: for processes that read what strangers sent.

    Raises `OSError` where a filter of system calls refuses capset(2); the kernel itself does not.
    """
    kept = _effective() & sum(1 << _BITS[name] for name in names)
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)  # effective, permitted, inheritable
    _succeed(_libc.capset(header, data))


def keep_capabilities_from_programs() -> None:
    """Let programs that are started from here have none, unless this is root; it keeps its own."""
    _succeed(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))


def _succeed(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _effective() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
