"""How long evidence is kept: the oldest files go when they are too old, too much, or the disk is nearly full.

Runs with the evidence writer, by a timer. Goes by names and sizes of the files and by what the file system
says is free, never by the index. Whole files go, the oldest first, never one that is open; what is not
an evidence file is never touched.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from sensor.errors import EvidenceError
from sensor.evidence.evidence_file import WINDOW_S, evidence_sizes

DELETED_AT_ONCE = 16
"""Files that one call deletes, at most: deleting large ones takes time."""

Reason = Literal["age", "size", "free"]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""Which of the `Limits` a file was deleted for, the first of them where several hold."""

_DAY_S = 86_400
_GIB = 1 << 30

log = logging.getLogger(__name__)


class Limits(NamedTuple):
    """How much evidence a device may keep; None: any."""

    days: int | None = None
    gib: float | None = None
    free_percent: float = 0.0
    """Of the file system, that stays free."""


class Deleted(NamedTuple):
    """What was deleted for one reason, since the start."""

    files: int = 0
    bytes: int = 0


class _Surplus(NamedTuple):
    """A file to delete."""

    name: str
    size: int
    reason: Reason


class Retention:
    """Deletes files of one device's directory."""

    def __init__(self, directory: Path, limits: Limits, deleted: Callable[[list[str]], object]) -> None:
        """``deleted`` is told the names of files that are gone."""
        self.deleted = dict.fromkeys(REASONS, Deleted())
        self.failures = 0
        """Times that the directory could not be looked at, or a file not deleted."""
        self._directory = directory
        self._limits = limits
        self._tell = deleted
        self._warned = False

    def enforce(self, now_s: float) -> None:
        """Delete the oldest files, some at a time, until the limits hold; raises nothing."""
        try:
            surplus = list(self._surplus(now_s))
        except (OSError, EvidenceError) as error:
            self.failures += 1
            self._warn(f"{self._directory} cannot be looked at for evidence to delete: {error}")
            return
        gone = [one for one in surplus if self._delete(one)]
        if gone:
            self._tell([one.name for one in gone])

    def _surplus(self, now_s: float) -> Iterator[_Surplus]:
        """Give the files to delete, the oldest first."""
        days, gib, free_percent = self._limits
        missing = _missing_bytes(self._directory, free_percent)
        if days is None and gib is None and missing <= 0:
            return
        files = evidence_sizes(self._directory)
        excess = _sum_bytes(self._directory, files) - gib * _GIB if gib is not None else 0
        finished = sorted((name, size) for name, (size, is_open) in files.items() if not is_open)
        for name, size in finished[:DELETED_AT_ONCE]:
            too_old = days is not None and _end_s(name) < now_s - days * _DAY_S
            if not (too_old or excess > 0 or missing > 0):
                return
            yield _Surplus(name, size, "age" if too_old else "size" if excess > 0 else "free")
            excess -= size
            missing -= size
        if not finished and missing > 0:
            self._warn(
                f"less than {free_percent:g} % of the disk of {self._directory} is free, and no finished"
                " evidence file is left to delete: make room"
            )

    def _delete(self, file: _Surplus) -> bool:
        path = self._directory / file.name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.failures += 1
            self._warn(f"{path} cannot be deleted: {error.strerror}")
            return False
        files, size = self.deleted[file.reason]
        self.deleted[file.reason] = Deleted(files + 1, size + file.size)
        log.info("%s was deleted to keep within the limits of retention", path)
        return True

    def _warn(self, message: str) -> None:
        if not self._warned:
            log.warning("%s", message)
        self._warned = True


def _missing_bytes(directory: Path, free_percent: float) -> float:
    """Return how many bytes have to be freed for that part of the file system to be free."""
    disk = os.statvfs(directory)
    return disk.f_frsize * (disk.f_blocks * free_percent / 100 - disk.f_bavail)


def _sum_bytes(directory: Path, files: dict[str, tuple[int, bool]]) -> int:
    """Return the size of all evidence, with its index."""
    index = sum(path.stat().st_size for path in directory.glob("*.sqlite*"))
    return index + sum(size for size, _ in files.values())


def _end_s(name: str) -> float:
    """Return when the five minutes of a file were over; a name in local time is taken for one in UTC."""
    return datetime.strptime(name[:12], "%Y%m%d%H%M").replace(tzinfo=UTC).timestamp() + WINDOW_S
