"""Retention: deletes the oldest evidence files by age, by total size, and when the disk is nearly full.

Runs in the supervisor, as one of its timed chores. It relies on the names and sizes of the files and on the
free space of the file system, never on the index. It deletes whole files, the oldest first, and never an
open one. Other files in the directory are never touched.
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
"""Maximum number of files that one call deletes, because deleting large files takes time."""

Reason = Literal["age", "size", "free"]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""The limits a file can be deleted for; if several apply, the first one counts."""

_DAY_S = 86_400
_GIB = 1 << 30

log = logging.getLogger(__name__)


class Limits(NamedTuple):
    """How much evidence a device may keep; None means no limit."""

    days: int | None = None
    gib: float | None = None
    free_percent: float = 0.0
    """Share of the file system that is kept free, in percent."""


class Deleted(NamedTuple):
    """Files and bytes deleted for one reason since the start."""

    files: int = 0
    bytes: int = 0


class _Surplus(NamedTuple):
    """A file to delete, and why."""

    name: str
    size: int
    reason: Reason


class Retention:
    """Deletes evidence files from the directory of one device."""

    def __init__(self, directory: Path, limits: Limits, on_deleted: Callable[[list[str]], object]) -> None:
        """Watch a directory; ``on_deleted`` is called with the names of deleted files."""
        self.deleted = dict.fromkeys(REASONS, Deleted())
        self.failures = 0
        """Number of times the directory could not be read or a file could not be deleted."""
        self._directory = directory
        self._limits = limits
        self._on_deleted = on_deleted
        self._warned = False

    def enforce(self, now_s: float) -> None:
        """Delete the oldest files until the limits hold, at most `DELETED_AT_ONCE` per call.

        Errors are logged and counted, never raised.
        """
        try:
            surplus = list(self._surplus(now_s))
        except (OSError, EvidenceError) as error:
            self.failures += 1
            reason = error.strerror if isinstance(error, OSError) else error
            self._warn(f"retention: cannot read {self._directory}: {reason}")
            return
        gone = [one for one in surplus if self._delete(one)]
        if gone:
            self._on_deleted([one.name for one in gone])

    def _surplus(self, now_s: float) -> Iterator[_Surplus]:
        """Yield the files to delete, the oldest first."""
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
                f"retention: less than {free_percent:g} % of the disk of {self._directory} is free, and no "
                "finished evidence file is left to delete; free some space"
            )

    def _delete(self, file: _Surplus) -> bool:
        path = self._directory / file.name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.failures += 1
            self._warn(f"retention: cannot delete {path}: {error.strerror}")
            return False
        files, size = self.deleted[file.reason]
        self.deleted[file.reason] = Deleted(files + 1, size + file.size)
        log.info("retention: deleted %s (%s)", path, file.reason)
        return True

    def _warn(self, message: str) -> None:
        if not self._warned:
            log.warning("%s", message)
        self._warned = True


def _missing_bytes(directory: Path, free_percent: float) -> float:
    """Return how many bytes must be freed so that this share of the file system is free."""
    disk = os.statvfs(directory)
    return disk.f_frsize * (disk.f_blocks * free_percent / 100 - disk.f_bavail)


def _sum_bytes(directory: Path, files: dict[str, tuple[int, bool]]) -> int:
    """Return the size of all evidence, including its index."""
    index = sum(path.stat().st_size for path in directory.glob("*.sqlite*"))
    return index + sum(size for size, _ in files.values())


def _end_s(name: str) -> float:
    """Return the end of a file's five minutes; a name in local time is treated as UTC."""
    return datetime.strptime(name[:12], "%Y%m%d%H%M").replace(tzinfo=UTC).timestamp() + WINDOW_S
