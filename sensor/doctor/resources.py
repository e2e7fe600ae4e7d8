"""Checks of memory for rings and flows, and of the evidence disk."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sensor import abi
from sensor.capture.cpus import online_cpus
from sensor.config.settings import Settings
from sensor.finding import Finding

TRIAL_BYTES = 64 << 20
SLOW_BYTES_PER_S = 50e6
"""Bytes per second below which a disk is slow: half a gigabit per second of matching traffic fills more."""

_MIB = 1 << 20


def memory_finding(settings: Settings, running: int | None) -> Finding:
    """Compare the memory that rings, histories and flows need at a start with what is available."""
    flow_bytes = abi.FLOW_SET.itemsize / abi.FLOW_WAYS
    history_mib = 0 if settings.context == "off" else settings.history_mib
    rings = (settings.ring_mib + history_mib) * len(online_cpus())
    needed = rings + int(settings.flows * flow_bytes) // _MIB
    [available_kib] = re.findall(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    available = int(available_kib) // 1024
    what = f"rings, histories and flows need {needed} MiB, {available} MiB are available"
    if running or needed <= available // 2:
        return Finding(level="ok", check="memory", what=what)
    return Finding(
        level="error" if needed > available else "warning",
        check="memory",
        what=what,
        why="the kernel refuses them, or kills processes"
        if needed > available
        else "little is left for the rules",
        advice=f"lower ring_mib ({settings.ring_mib} per CPU), history_mib ({history_mib} per CPU) "
        f"or flows ({settings.flows})",
    )


def _exists(path: Path) -> bool:
    with suppress(OSError):  # a directory above may not be searched, or the name is too long
        return path.exists()
    return False


def disk_findings(settings: Settings, running: int | None, *, trial: bool) -> Iterator[Finding]:
    """Check the evidence directory, or where it would be created; with ``trial``, measure its speed."""
    directory = settings.evidence / str(settings.devid)
    existing = next(path for path in (directory, *directory.parents) if _exists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        fault = "is not writable" if existing.is_dir() else "is not a directory"
        yield Finding(
            level="error",
            check="evidence",
            subject=str(directory),
            what=f"cannot be written ({existing} {fault})",
            why="no evidence can be kept",
            advice="make it writable, or name another directory with --evidence",
        )
        return
    state = f"process {running} writes here" if running else "can be written"
    what = state if existing == directory else "will be created"
    yield Finding(level="ok", check="evidence", subject=str(directory), what=what)
    yield _free_space(existing, settings.retain_free_percent)
    if trial:
        yield _speed(existing)


def _free_space(directory: Path, wanted_percent: float) -> Finding:
    disk = os.statvfs(directory)
    percent = 100 * disk.f_bavail / max(1, disk.f_blocks)
    free = f"{percent:.1f} % of its disk is free ({disk.f_bavail * disk.f_frsize / 2**30:.1f} GiB)"
    if percent >= max(wanted_percent, 1):
        return Finding(level="ok", check="disk", subject=str(directory), what=free)
    if wanted_percent:
        free += f", less than the {wanted_percent:g} % that retain_free_percent keeps free"
    return Finding(
        level="warning",
        check="disk",
        subject=str(directory),
        what=free,
        why="old evidence is deleted early" if wanted_percent else "evidence will soon be lost",
        advice="free some space, or lower retain_free_percent" if wanted_percent else "free some space",
    )


def _speed(directory: Path) -> Finding:
    """Measure how fast a file is written and flushed."""
    chunk = os.urandom(_MIB)  # some file systems compress
    started_s = time.monotonic()
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            for _ in range(TRIAL_BYTES // len(chunk)):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            level="error",
            check="speed",
            subject=str(directory),
            what=f"{TRIAL_BYTES // _MIB} MiB could not be written: {error.strerror}",
            why="no evidence can be kept",
            advice="free some space, or name another directory with --evidence",
        )
    speed = TRIAL_BYTES / (time.monotonic() - started_s)
    is_slow = speed < SLOW_BYTES_PER_S
    return Finding(
        level="warning" if is_slow else "ok",
        check="speed",
        subject=str(directory),
        what=f"its disk writes {speed / 1e6:.0f} MB/s",
        why="evidence is lost if matching traffic exceeds this for long" if is_slow else "",
        advice="use a faster disk, or lower suppress_above" if is_slow else "",
    )
