"""The writing side of the index: one row per record of the evidence files.

Runs in the indexer of ``sensor run``, and with the evidence writer in ``sensor read``.

The pcap files are authoritative and are written first; rows follow in batches. The index never stops or slows
capture: if a database cannot be written, the log says so, and the records become a **gap**, a stretch of a
file whose records have no rows yet. A killed process leaves gaps too. `sensor.evidence.reconcile` finds and
fills them.

Nothing is flushed to disk. A database that was in use during a power cut (the boot id differs from that of
its last writer) is not trusted, and is rebuilt.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from sensor.errors import EvidenceError
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.conversation import ConversationNote
from sensor.evidence.day_writer import DayWriter, UnusableError
from sensor.evidence.directory_lock import lock_index
from sensor.evidence.evidence_file import is_gone
from sensor.evidence.file_name import parse_name
from sensor.evidence.index_connection import SUFFIXES
from sensor.evidence.index_schema import Day, databases
from sensor.evidence.pcap import FILE_HEADER_BYTES
from sensor.evidence.waiting_rows import WaitingChunk, WaitingRows
from sensor.model import LinkType
from sensor.process.regular_file import FileIdentity, identity

COMMIT_S = 0.5
COMMIT_ROWS = 16_384
"""Rows are committed after this time, this number of items and matches, or by `IndexWriter.commit`."""
OPEN_DAYS = 4
"""Maximum number of databases that are open at the same time."""
PURGED_ROWS = 1000
"""Rows of deleted files that one call of `IndexWriter.tidy` deletes."""
QUIET_S = 10.0
"""Time without failures, after a failure, until the log reports that writing works again."""

_TORN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


class IndexFigures(NamedTuple):
    """The state of the index, for metrics."""

    rows: int
    """Rows committed since the start."""
    waiting: int
    """Rows that are not committed yet."""
    failures: int
    """Changes that failed."""
    changed_s: float | None
    """Time of the last change, seconds since the epoch; None if there was none."""
    is_behind: bool
    """True if there may be gaps."""


class IndexWriter:
    """Writes the databases of one device directory, and opens them as needed.

    A lock keeps a second one out. No method but `lock` raises an error for an index or a database that is
    locked, or for a database that is damaged, foreign or on a full disk.
    """

    def __init__(self, directory: Path, interface_name: Callable[[int], str] = str) -> None:
        self.directory = directory
        self.is_behind = True
        """True if there may be gaps."""
        self.touched: set[str] | None = None
        """If this is a set, the names of files whose rows change are added to it."""
        self.untidy: set[Day] = set(self.days())
        """Days whose databases may have rows of deleted files."""
        self.rows = 0
        """Rows committed since the start."""
        self._failures = 0
        self._changed_s: float | None = None
        self._interface_name = interface_name
        self._databases: dict[Day, DayWriter] = {}  # least recently used first
        self._expected: dict[Day, FileIdentity | None] = {}
        """The databases that have to be there, and stay the same."""
        with contextlib.suppress(OSError):
            for day in self.untidy:
                self._expected[day] = identity(directory / day.file_name)
        self._begun: set[Day] = set()
        """Days whose databases were open in this run, so that their open conversations are of this run."""
        self._lock: int | None = None
        self._waiting = WaitingRows()
        self._ends: dict[str, int] = {}  # of files that are not finished yet
        self._committed_s = time.monotonic()
        self._failed_s: float | None = None

    def add(self, name: str, offset: int, block: EvidenceBlock) -> None:
        """Add rows for consecutive records that were written to a file.

        Args:
            name: Final name of the file.
            offset: Offset of the first record.
            block: The evidence in the records, all of the same UTC day.
        """
        self._ends[name] = self._waiting.add(name, offset, block)
        self._touch([name])
        if time.monotonic() - self._committed_s >= COMMIT_S or (
            self._failed_s is None and self._waiting.rows >= COMMIT_ROWS
        ):
            self.commit()

    def note(self, note: ConversationNote) -> None:
        """Keep what is known of a conversation, instead of what was known before."""
        self._waiting.note(note)

    def finish(self, name: str, end: int) -> None:
        """Note that there are gaps if the rows of a file, which is complete now, do not reach its end."""
        self.is_behind |= self._ends.pop(name, None) != end
        self._touch([name])

    def lock(self) -> None:
        """Keep other writers of the index out; `change` does this, too.

        Raises:
            OSError: another process has the lock, or the directory cannot be written.
        """
        if self._lock is None:
            self._lock = lock_index(self.directory)

    def commit(self) -> None:
        """Write the waiting rows to the databases; rows that cannot be written wait, within limits."""
        self._committed_s = time.monotonic()
        if not self.has_waiting:
            return
        for day, chunks in self._waiting.chunks_by_day().items():
            for is_behind in self.change(day, _add_all, chunks):
                self.is_behind |= is_behind
                self.rows += sum(chunk.items for chunk in chunks)
                self._waiting.drop_chunks_of(day)
        for day, notes in self._waiting.notes_by_day().items():
            if self.change(day, DayWriter.note, notes):
                self._waiting.drop_notes_of(day)
        self.is_behind |= self._waiting.drop_excess()
        if self._failed_s and not self._waiting.rows and self._committed_s - self._failed_s >= QUIET_S:
            log.warning("the index can be written again")
            self._failed_s = None

    @property
    def has_waiting(self) -> bool:
        """True if rows or notes wait for `commit`."""
        return bool(self._waiting)

    def watch(self) -> None:
        """Give up databases that were removed or replaced; their rows are found in the files again."""
        for day in list(self._expected):
            with contextlib.suppress(OSError):  # this cannot be found out now
                if not self._is_in_place(day):
                    self._lose(day)

    def _is_in_place(self, day: Day) -> bool:
        if day in self._databases:
            return self._databases[day].is_in_place
        return identity(self.directory / day.file_name) == self._expected[day]

    def _lose(self, day: Day) -> None:
        """Note that the rows of a day are gone; those of open files become gaps at once.

        SQLite would put what is left of the write-ahead log into a database that has its name.
        """
        path = self.directory / day.file_name
        log.error("%s was removed or replaced; it is built again from the files", path)
        self._failures += 1
        del self._expected[day]
        if day in self._databases:
            self._databases.pop(day).abandon()
        try:
            self._move_aside(path, "it was replaced")
        except OSError as error:
            log.error("%s cannot be moved aside: %s", error.filename, error.strerror)  # noqa: TRY400
        for name, end in self._ends.items():
            waiting_from, parsed = self._waiting.first_offset(name, day), parse_name(name)
            known = end if waiting_from is None else waiting_from
            if day.is_near(name) and known > FILE_HEADER_BYTES:
                linktype = parsed.linktype if parsed else LinkType.ETHERNET
                self.change(day, DayWriter.add_gap, name, known, linktype)
        self.is_behind = True

    def change(
        self, day: Day, change: Callable[Concatenate[DayWriter, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]:
        """Change a day's database in one transaction.

        Returns a list with the result of ``change``, or an empty list if the transaction failed.
        """
        try:
            with self._open(day) as database:
                done = [change(database, *args, **kwargs)]
        except (sqlite3.Error, OSError) as error:
            self._failures += 1
            self._report_failure(day, error)
            return []
        self._changed_s = time.time()
        return done

    @property
    def waiting_files(self) -> set[str]:
        """The files that have rows which are not committed yet."""
        return self._waiting.files

    def figures(self) -> IndexFigures:
        """Return the state of the index."""
        return IndexFigures(self.rows, self._waiting.items, self._failures, self._changed_s, self.is_behind)

    def days(self) -> list[Day]:
        """Return the days that have a database, the oldest first; none if the directory cannot be read."""
        with contextlib.suppress(EvidenceError):
            return [day for day, _ in databases(self.directory)]
        return []

    def forget(self, names: Collection[str]) -> None:
        """Hide the rows of deleted files from searches; `tidy` deletes the rows."""
        self._touch(names)
        self._waiting.drop_files(names)
        for day in self.days():
            near = [name for name in names if day.is_near(name)]
            if near:
                self.is_behind |= not self.change(day, DayWriter.forget, *near)
                self.untidy.add(day)
        if not all(is_gone(self.directory / name) for name in names):
            self.is_behind = True  # the name is in use again, and its rows may have been hidden, too

    def tidy(self) -> None:
        """Delete some rows of deleted files, or the whole database if it has no files left."""
        if not self.untidy:
            return
        day = min(self.untidy)
        if day not in self.days():
            self.untidy.discard(day)
            return
        for is_empty, has_more in self.change(day, DayWriter.purge, PURGED_ROWS):
            if not has_more:
                self.untidy.discard(day)
            if is_empty:
                self._expected.pop(day, None)
                self._databases.pop(day).close()
                try:
                    self._unlink(self.directory / day.file_name)
                except OSError as error:
                    log.warning("%s cannot be deleted: %s", error.filename, error.strerror)

    def delete(self) -> None:
        """Delete all databases; the evidence files are kept.

        Raises:
            EvidenceError: one cannot be deleted.
        """
        self._waiting.clear()
        self._expected.clear()
        for database in self._databases.values():
            database.abandon()
        self._databases.clear()
        try:
            for day in self.days():
                self._unlink(self.directory / day.file_name)
        except OSError as error:
            raise EvidenceError(
                f"{error.filename} is in the place of an index and cannot be deleted: {error.strerror};"
                " remove it"
            ) from error

    def close(self) -> None:
        """Commit waiting rows, close all databases and release the lock."""
        self.commit()
        for database in self._databases.values():
            database.close()
        self._databases.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _touch(self, names: Collection[str]) -> None:
        if self.touched is not None:
            self.touched.update(names)

    def _open(self, day: Day) -> DayWriter:
        """Return the database of a day, created if missing; a damaged or foreign one is moved aside."""
        self.lock()
        if day in self._expected and day not in self._databases and not self._is_in_place(day):
            self._lose(day)  # before a new one takes its place
        if day not in self._databases:
            while len(self._databases) >= OPEN_DAYS:
                self._databases.pop(next(iter(self._databases))).close()
            path = self.directory / day.file_name
            try:
                self._databases[day] = DayWriter(path, day, self._interface_name)
            except UnusableError as error:
                self._move_aside(path, error)
                self._databases[day] = DayWriter(path, day, self._interface_name)
            self._expected[day] = identity(path)
            if day not in self._begun:
                self._begun.add(day)
                self._databases[day].interrupt()
        self._databases[day] = self._databases.pop(day)
        return self._databases[day]

    def _report_failure(self, day: Day, error: Exception) -> None:
        path = self.directory / day.file_name
        if day in self._databases:
            self._databases.pop(day).abandon()
        if isinstance(error, sqlite3.DatabaseError) and error.sqlite_errorcode in _TORN:
            self._expected.pop(day, None)
            with contextlib.suppress(OSError):  # opening it tries again
                self._move_aside(path, error)
        elif self._failed_s is None:
            log.error("%s cannot be written; its evidence is indexed later: %s", path, error)
        self._failed_s = time.monotonic()

    def _move_aside(self, path: Path, reason: object) -> None:
        """Give a database another name, and remove its other files; remove a FIFO or a link in its place.

        Raises:
            OSError: something cannot be moved or removed.
        """
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            path.replace(path.with_name(f"{path.name}.bad"))
            log.warning("%s cannot be used (%s): moved to %s.bad, and rebuilt", path, reason, path.name)
        elif os.path.lexists(path):
            log.warning("%s cannot be used (%s): removed, and rebuilt", path, reason)
        self._unlink(path)
        self.is_behind = True

    def _unlink(self, path: Path) -> None:
        for suffix in SUFFIXES:
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _add_all(database: DayWriter, chunks: Sequence[WaitingChunk]) -> bool:
    """Add rows for all chunks; return True if this left a gap before one of them."""
    gaps = [database.add(one.name, one.offset, one.blocks) for one in chunks]
    return any(gaps)
