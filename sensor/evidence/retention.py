"""Retention: deletes evidence files above the limits of age, of size, and of the disk.

It relies on the names and sizes of the files and on the free space of the file system, never on the index. It
deletes whole files: context first, threat evidence last, and the oldest of each kind first; and never an open
one. Only files whose name is a real time are evidence; others in the directory are never touched.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from math import inf
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from sensor.evidence.clock_trust import ClockReading, ClockTrust
from sensor.evidence.file_name import FileKind
from sensor.evidence.holds import reading_holds
from sensor.evidence.stored_files import StoredFile, StoredFiles
from sensor.text import count_of

DELETED_AT_ONCE = 16
"""Maximum number of files that one call deletes, because deleting large files takes time."""
AGED_FILES, AGED_SHARE = 60, 0.02
"""Files that are deleted by age in an hour: as many as this, or this share of all, whichever is more.

A day's files get too old in a day, but if a wrong clock is believed, most evidence is there for days.
"""

MOST_BLOCKED = 20
"""Calls in a row that may find the holds locked; then their lock is ignored: its holder has stopped."""

LimitName = Literal["age", "class", "size", "free", "inodes"]
LIMIT_NAMES: tuple[LimitName, ...] = get_args(LimitName)
"""The limits a file can be deleted for; if several apply, the first one counts."""

_SETTINGS: dict[LimitName, str] = {
    "age": "days",
    "class": "threat_gib",
    "size": "gib",
    "free": "free_percent",
    "inodes": "free_percent",
}
_DAY_S = 86_400
_HOUR_S = 3600
_GIB = 1 << 30
_CUSHION_BYTES, _CUSHION_SHARE = 64 << 20, 0.25
"""Space that is kept free at least, or this share of a small disk: the index grows in steps of megabytes."""
_CONTEXT, _WRITING, _THREATS = 0.75, 0.5, 0.25
"""Shares of the space to keep free.

Below the first no context is written, below the second only threats are, and below the third threats are
deleted. Other evidence is deleted for all of the space. So it never fills what threats need, nor does context
fill what others need.
"""
_SHORT = 1.5
"""Share of the space to keep free, or of a limit of size, from which on space is short."""

log = logging.getLogger(__name__)


class Limits(NamedTuple):
    """How much evidence a device may keep; None means no limit."""

    days: int | None = None
    gib: float | None = None
    free_percent: float = 0.0
    """Share of the file system's bytes and inodes that is kept free, in percent."""
    threat_days: int | None = None
    """Age limit of threat evidence; None: ``days``."""
    threat_gib: float | None = None

    def explain(self, limit: LimitName, *, is_threat: bool) -> str:
        """Return the setting of a limit, and its value."""
        is_for_threats = limit == "age" and is_threat and self.threat_days
        setting = "threat_days" if is_for_threats else _SETTINGS[limit]
        return f"retain_{setting} = {getattr(self, setting):g}"


class Space(NamedTuple):
    """The space for evidence, as the process that writes it needs to know it. All in bytes."""

    room: float = inf
    """Evidence without threats that may still be written until the next look at the disk."""
    open_limit: float = inf
    """Size up to which open files without threats may grow."""
    context_room: float = inf
    """Context that may still be written until the next look at the disk."""
    context_limit: float = inf
    """Size up to which open files with context may grow."""
    others: float = inf
    threats: float = inf
    """Space that evidence without threats, and with them, can have at most."""
    is_short: bool = False
    """True if evidence is deleted for want of space, or soon will be."""


class Deleted(NamedTuple):
    """Files and bytes deleted for one limit since the start."""

    files: int = 0
    bytes: int = 0


@dataclass
class _Shortage:
    """Bytes or files above one limit, by the evidence that has to go for it."""

    limit: LimitName
    others: float
    threats: float
    in_files: bool = False
    of_disk: bool = False
    """True if the disk is short: then any deleted file helps."""

    def is_met(self, *, by_threats: bool = False) -> bool:
        """Return True if none, or no threat evidence, has to be deleted for this limit."""
        return (self.threats if by_threats else self.others) <= 0

    def subtract(self, file: StoredFile) -> None:
        """Note that a file will be deleted."""
        amount = 1 if self.in_files else file.size
        self.others -= amount
        if file.kind == FileKind.THREAT or self.of_disk:
            self.threats -= amount


class _Surplus(NamedTuple):
    """A file to delete, and the limit that it is above."""

    file: StoredFile
    limit: LimitName


class Retention:
    """Deletes evidence files from the directory of one device."""

    def __init__(self, directory: Path, limits: Limits, on_deleted: Callable[[list[str]], object]) -> None:
        """Watch a directory; ``on_deleted`` is called with the names of deleted files."""
        self.deleted = dict.fromkeys(LIMIT_NAMES, Deleted())
        self.failures = 0
        """Number of times the directory could not be read or a file could not be deleted."""
        self._directory = directory
        self._limits = limits
        self._on_deleted = on_deleted
        self._files = StoredFiles(directory)
        self._clock = ClockTrust()
        self._aged = _Allowance()
        self._warned: set[str] = set()
        self.space = Space()
        """The space as of the last call of `enforce`."""
        self._capacity = inf, inf
        self._blocked = 0

    def enforce(self, reading: ClockReading) -> None:
        """Delete the oldest files until the limits hold, at most `DELETED_AT_ONCE` per call.

        Errors are logged and counted, never raised.
        """
        self._clock.note(reading)
        try:
            with self._holding():
                self._enforce(reading)
        except BlockingIOError:  # a hold is being added: the next call knows it
            self._blocked += 1
        except OSError as error:
            self.failures += 1
            self._warn(
                "read", f"retention: cannot read {error.filename or self._directory}: {error.strerror}"
            )

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Leave out what is held, and keep further holds from being added meanwhile.

        Raises:
            OSError: the holds cannot be read; then nothing may be deleted.
        """
        with reading_holds(self._directory, locked=self._blocked < MOST_BLOCKED) as holds:
            self._blocked = 0
            self._files.hold(frozenset(name for hold in holds.values() for name in hold.files))
            yield

    def _enforce(self, reading: ClockReading) -> None:
        """Delete files, now that those are known that are held.

        Raises:
            OSError: the directory cannot be read.
        """
        disk = os.statvfs(self._directory)
        if self._is_limited or any(not one.is_met() for one in self._of_disk(disk)):
            self._refresh(disk)
        shortages = [*self._of_budgets(), *self._of_disk(disk)]
        self.space = self._space(disk)
        surplus = list(islice(self._surplus(reading, shortages), DELETED_AT_ONCE))
        gone = [one.file for one in surplus if self._delete(one)]
        if surplus:
            self._files.leave_out([one.file for one in surplus], gone)
        if gone:
            self._on_deleted([file.name for file in gone])
        elif not any(self._files.finished.values()) and not all(one.is_met() for one in self._of_disk(disk)):
            self._warn(
                "full",
                f"retention: less than {self._limits.free_percent:g} % of the disk of {self._directory} is "
                "free, and no finished evidence file is left to delete that is not held; free some space",
            )

    def _refresh(self, disk: os.statvfs_result) -> None:
        """List the files, if that is due, and measure the space that each kind of evidence can have."""
        if self._files.refresh():
            files, limits = self._files, self._limits
            threat_bytes = files.bytes[FileKind.THREAT]
            free = disk.f_bavail * disk.f_frsize - self._wanted(disk)
            free += files.bytes[FileKind.OTHER] + files.bytes[FileKind.CONTEXT]
            limit = (limits.gib or inf) * _GIB - files.index_bytes
            threat_limit = min(limit, (limits.threat_gib or inf) * _GIB)
            others = max(0.0, min(limit - threat_bytes, free))
            threats = max(0.0, min(threat_limit, free + threat_bytes))
            self._capacity = others, threats

    @property
    def _is_limited(self) -> bool:
        """True if there are limits that need the list of files to be checked."""
        return self._limits._replace(free_percent=0) != Limits()

    def _of_disk(self, disk: os.statvfs_result) -> Iterator[_Shortage]:
        """Yield what the file system has too little of: bytes and inodes."""
        wanted, free = self._wanted(disk), disk.f_bavail * disk.f_frsize
        yield _Shortage("free", wanted - free, wanted * _THREATS - free, of_disk=True)
        # Both are 0 if the file system makes inodes as it needs them.
        wanted, free = disk.f_files * self._limits.free_percent / 100, disk.f_favail
        yield _Shortage("inodes", wanted - free, wanted * _THREATS - free, in_files=True, of_disk=True)

    def _wanted(self, disk: os.statvfs_result) -> float:
        """Return how many bytes of the file system are to be free."""
        size, share = disk.f_blocks * disk.f_frsize, self._limits.free_percent / 100
        return share and max(size * share, min(_CUSHION_BYTES, size * _CUSHION_SHARE))

    def _space(self, disk: os.statvfs_result) -> Space:
        """Return the space that there is now."""
        files, limits = self._files, self._limits
        wanted, free = self._wanted(disk), disk.f_bavail * disk.f_frsize
        used = files.bytes[FileKind.THREAT] + files.index_bytes
        hits = files.bytes[FileKind.OTHER] + used
        limit, threat_limit = ((one or inf) * _GIB for one in (limits.gib, limits.threat_gib))
        deletable = sum(file.size for file in files.finished[FileKind.CONTEXT])
        context_room = min(free - wanted * _CONTEXT, free + deletable - wanted)
        return Space(
            room=max(0.0, free - wanted * _WRITING) if wanted else inf,
            open_limit=max(0.0, limit - used),
            context_room=max(0.0, context_room) if wanted else inf,
            context_limit=max(0.0, limit - hits),
            others=self._capacity[0],
            threats=self._capacity[1],
            is_short=free + deletable < wanted * _SHORT
            or hits > limit / _SHORT
            or files.bytes[FileKind.THREAT] > threat_limit / _SHORT,
        )

    def _of_budgets(self) -> Iterator[_Shortage]:
        """Yield what the evidence of this device has above the limits of its size."""
        files, limits = self._files, self._limits
        if limits.threat_gib is not None:
            yield _Shortage("class", 0, files.bytes[FileKind.THREAT] - limits.threat_gib * _GIB)
        if limits.gib is not None:
            threats = files.bytes[FileKind.THREAT] + files.index_bytes - limits.gib * _GIB
            others = files.bytes[FileKind.OTHER] + files.bytes[FileKind.CONTEXT]
            yield _Shortage("size", others + threats, threats)

    def _surplus(self, reading: ClockReading, shortages: list[_Shortage]) -> Iterator[_Surplus]:
        """Yield the files to delete: context first, threat evidence last, the oldest of each kind first."""
        finished = self._files.finished
        of_class = [one for one in shortages if one.limit == "class"]
        seen: set[str] = set()
        for one in chain(
            self._too_old(reading),
            _above(of_class, finished[FileKind.THREAT]),
            *(_above(shortages, finished[kind]) for kind in FileKind),
        ):
            if one.file.name not in seen:
                seen.add(one.file.name)
                for shortage in shortages:
                    shortage.subtract(one.file)
                yield one

    def _too_old(self, reading: ClockReading) -> Iterator[_Surplus]:
        """Yield files above the limits of age, as far as the clock is believed."""
        files, days = self._files, self._limits.days
        left = self._aged.refill(len(files.ends_s), reading.boot_s)
        for kind, kept in files.finished.items():
            limit = self._limits.threat_days or days if kind == FileKind.THREAT else days
            limit_s = reading.wall_s - (limit or 0) * _DAY_S
            if limit is None or not kept or kept[0].end_s >= limit_s:
                continue
            if not self._clock.is_settled(reading):
                self._warn("jump", "retention: the clock jumped; nothing is deleted by age for an hour")
                continue
            first = bisect_left(
                kept, self._clock.believed_from_s(files.ends_s, reading), key=lambda file: file.end_s
            )
            end = bisect_left(kept, limit_s, key=lambda file: file.end_s)
            if first:
                self._warn(
                    "doubt",
                    f"retention: {count_of(first, 'file')} seem too old, but no evidence leads from there to "
                    "now, and the clock is not synchronised; they are not deleted by age until it is",
                )
            if end - first > left:
                self._warn(
                    "many",
                    f"retention: {count_of(end - first, 'file')} are too old; "
                    f"{int(self._aged.per_hour)} per hour are deleted by age",
                )
            for file in kept[first : first + min(left, end - first)]:
                left -= 1
                yield _Surplus(file, "age")

    def _delete(self, surplus: _Surplus) -> bool:
        file, limit = surplus
        path = self._directory / file.name
        try:
            path.unlink()
        except FileNotFoundError:  # a late packet has opened it again, or it was deleted by hand
            return False
        except OSError as error:
            self.failures += 1
            self._warn("delete", f"retention: cannot delete {path}: {error.strerror}")
            return False
        files, size = self.deleted[limit]
        self.deleted[limit] = Deleted(files + 1, size + file.size)
        if limit == "age":
            self._aged.use()
        log.info(
            "retention: deleted %s (%s: %s)",
            path,
            limit,
            self._limits.explain(limit, is_threat=file.kind == FileKind.THREAT),
        )
        return True

    def _warn(self, kind: str, message: str) -> None:
        """Log a message, the first of its kind only."""
        if kind not in self._warned:
            log.warning("%s", message)
        self._warned.add(kind)


class _Allowance:
    """The number of files that may be deleted by age now, which grows with time."""

    def __init__(self) -> None:
        self.per_hour = 0.0
        self._left: float | None = None
        self._filled_s = 0.0

    def refill(self, files: int, now_s: float) -> int:
        """Return the number, given the number of all files and a time that only runs forward."""
        self.per_hour = max(AGED_FILES, AGED_SHARE * files)
        left = self.per_hour if self._left is None else self._left
        grown = self.per_hour * (now_s - self._filled_s) / _HOUR_S if self._left is not None else 0
        self._left, self._filled_s = min(self.per_hour, left + grown), now_s
        return int(self._left)

    def use(self) -> None:
        """Take one."""
        self._left = (self._left or 0) - 1


def _above(shortages: list[_Shortage], files: list[StoredFile]) -> Iterator[_Surplus]:
    """Yield files as long as there is a shortage that they are deleted for."""
    for file in files:
        unmet = next(
            (one for one in shortages if not one.is_met(by_threats=file.kind == FileKind.THREAT)), None
        )
        if unmet is None:
            return
        yield _Surplus(file, unmet.limit)
