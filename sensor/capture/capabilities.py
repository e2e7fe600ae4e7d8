"""What this process may ask of the kernel (capabilities(7)); for the supervisor and ``sensor doctor``."""

from __future__ import annotations

from pathlib import Path

NEEDED = ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW")
"""To load, to submit to rings, to attach, and to have frames for other hosts."""

_BITS = {
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
_BY_SYS_ADMIN = {"CAP_BPF", "CAP_PERFMON"}


def held_capabilities() -> set[str]:
    """Return those in force, of the ones that matter here; CAP_SYS_ADMIN counts for what it includes."""
    status = Path("/proc/self/status").read_text()
    bits = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    held = {name for name, bit in _BITS.items() if bits >> bit & 1}
    return held | _BY_SYS_ADMIN if "CAP_SYS_ADMIN" in held else held


def missing_capabilities() -> list[str]:
    """Return what this process lacks for capturing."""
    held = held_capabilities()
    return [name for name in NEEDED if name not in held]
