"""Numbers of CPUs, as sysfs and procfs list them. Runs in every process that captures, and in benchmarks."""

from __future__ import annotations

from pathlib import Path

_SYSFS = Path("/sys/devices/system/cpu")


def online_cpus() -> list[int]:
    """Return the numbers of the CPUs that are online."""
    return parse_cpu_list((_SYSFS / "online").read_text(encoding="ascii"))


def possible_cpus() -> int:
    """Return the number of CPUs for which per-CPU maps hold values (sysfs, cputopology)."""
    return max(parse_cpu_list((_SYSFS / "possible").read_text(encoding="ascii"))) + 1


def parse_cpu_list(text: str) -> list[int]:
    """Return the CPU numbers in a list such as ``0-3,5`` (sysfs, cputopology)."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        low, _, high = part.partition("-")
        cpus.extend(range(int(low), int(high or low) + 1))
    return cpus


def parse_cpu_mask(text: str) -> list[int]:
    """Return the CPU numbers in a mask such as ``00000001,0000000f``: words of 32 bits, highest first."""
    mask = int(text.strip().replace(",", ""), 16)
    return [cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1]
