"""The machine a measurement ran on, its CPU times, and the spread of repeats. Runs in ``sensor bench``."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from sensor import DISTRIBUTION
from sensor.capture.cpus import online_cpus

Figure = dict[str, float]
"""The ``median``, ``least`` and ``most`` of the repeats."""

_PACKAGES = ("hyperscan", "google-re2", "numpy")
_WATCHED_S = 0.5
_CPU_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """Describe this machine and how busy other programs keep it; idles for half a second to find out."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith(("model name", "CPU part"))]
    before = busy_s()
    time.sleep(_WATCHED_S)
    cpus = len(online_cpus())
    return {
        "cpu": names[0] if names else platform.machine(),
        "cpus": cpus,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sensor": version(DISTRIBUTION),
        **{package: version(package) for package in _PACKAGES},
        "busy_with_others_percent": min(100, round((busy_s() - before) / _WATCHED_S / cpus * 100)),
    }


def busy_s() -> float:
    """Return the CPU time all CPUs have spent busy, interrupts included."""
    return stat_s(*(field for field in _CPU_FIELDS if field not in ("idle", "iowait")))


def stat_s(*fields: str) -> float:
    """Return the CPU time all CPUs have spent in the given states, named as in proc_stat(5)."""
    counted = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(counted[_CPU_FIELDS.index(field)]) for field in fields) / _TICKS_PER_S


def process_s(pid: int) -> float:
    """Return the CPU time of another process, read from its CPU-time clock (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def pss_mib(pid: int) -> float:
    """Return another process's proportional set size (smaps_rollup, proc(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    [kib] = [line.split()[1] for line in lines if line.startswith("Pss:")]
    return round(int(kib) / 1024, 1)


def figure(values: list[float], digits: int = 2) -> Figure:
    """Summarize repeats, rounded to some digits."""
    return {
        "median": round(median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
    }
