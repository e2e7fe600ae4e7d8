"""The index database of one UTC day, open for writing. Runs with the evidence writer.

Used as a context manager, a `DayWriter` is a transaction. After a failed transaction it must be discarded
with `DayWriter.abandon`, because its caches may contain rows that the database does not have.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock, joined
from sensor.evidence.conversation import ConversationNote, Ending
from sensor.evidence.conversation_codec import note_row
from sensor.evidence.index_connection import check_database, prepare_for_writing, rows_of
from sensor.evidence.index_schema import TALLY_IDS, Day
from sensor.evidence.link_table import LinkTable
from sensor.evidence.pcap import FILE_HEADER_BYTES, RECORD_HEADER_BYTES
from sensor.evidence.row_builder import RowBuilder, Rows, inserted_number, parse_list
from sensor.evidence.segments import Segments
from sensor.model import LinkType
from sensor.process.regular_file import MODE, FileIdentity, ForeignFileError, identity, open_regular

_INSERT = f"INSERT INTO evidence VALUES ({', '.join('?' * 20)})"
_INSERT_MATCH = "INSERT INTO hit VALUES (?, ?)"
_SELECT = "SELECT id, segment, classes, rules FROM evidence"


class UnusableError(Exception):
    """The database is damaged or foreign, or was open when the host crashed."""


class Gap(NamedTuple):
    """A stretch of an evidence file whose records have no rows yet."""

    name: str
    start: int
    end: int
    """Offset of the first record, and of the byte after the last one."""


class DayWriter:
    """One database, created if it does not exist.

    Raises:
        UnusableError: the database cannot be trusted; it must be rebuilt.
        sqlite3.OperationalError: the database is locked, or the disk is full.
        OSError: the file cannot be created.
    """

    def __init__(self, path: Path, day: Day, interface_name: Callable[[int], str]) -> None:
        self._path = path
        created = _create(path)
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        self._execute = self._connection.execute
        try:
            prepare_for_writing(self._connection)
            self._load(day, interface_name)
            _, log = self._look()
        except (sqlite3.OperationalError, OSError):
            self.abandon()
            raise
        except sqlite3.DatabaseError as error:
            self.abandon()
            raise UnusableError(str(error)) from error
        self._identities = created, log

    def _look(self) -> tuple[FileIdentity | None, FileIdentity | None]:
        """Return the identities of the database and of its write-ahead log."""
        return identity(self._path), identity(self._path.with_name(f"{self._path.name}-wal"))

    @property
    def is_in_place(self) -> bool:
        """False if the database was removed or replaced, so that further rows would be lost.

        Raises:
            OSError: this cannot be found out.
        """
        return self._look() == self._identities

    def _load(self, day: Day, interface_name: Callable[[int], str]) -> None:
        self._files: dict[str, tuple[int, int]] = {
            name: (file, end)
            for file, name, end in rows_of(
                self._execute("SELECT file, name, end FROM file WHERE name IS NOT NULL"), int, str, int
            )
        }
        self.links = LinkTable(self._connection, day)
        self._segments = Segments(self._connection)
        self._builder = RowBuilder(self._connection, self._segments, interface_name, day.start_us)

    def __enter__(self) -> Self:
        self._execute("BEGIN IMMEDIATE")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._segments.save()
            self._execute("COMMIT")

    def close(self) -> None:
        """Close the database cleanly: it is then trusted after a power cut."""
        with contextlib.suppress(sqlite3.Error):
            self._execute("DELETE FROM boot")
        self._connection.close()

    def abandon(self) -> None:
        """Close the database after a failure, without marking it as clean."""
        self._connection.close()

    def add(self, name: str, offset: int, blocks: Sequence[EvidenceBlock]) -> bool:
        """Add rows for consecutive records of a file, the first of which is at ``offset``.

        Returns True if the file now has a gap before them.
        """
        file, end = self._files.get(name) or self._new_file(name, blocks[0].linktype)
        if offset < end:  # the file was deleted, and started again
            self.forget(name)
            file, end = self._new_file(name, blocks[0].linktype)
        if offset > end:
            self._execute("INSERT INTO gap VALUES (?, ?, ?)", [file, end, offset])
        start = offset
        for block in _with_equal_rules(blocks):
            offsets = block.record_offsets(start)
            self._insert(file, offsets[:-1], block)
            start = int(offsets[-1])
        self._set_end(name, file, start)
        return offset > end

    def add_gap(self, name: str, size: int, linktype: int = LinkType.ETHERNET) -> None:
        """Add a gap from the end of the known records to ``size``.

        ``linktype`` is used if the file is not known yet.
        """
        file, end = self._files.get(name) or self._new_file(name, linktype)
        if size > end:
            self._execute("INSERT INTO gap VALUES (?, ?, ?)", [file, end, size])
            self._set_end(name, file, size)

    def fill(self, gap: Gap, offsets: NDArray[np.int64], block: EvidenceBlock, rest: int) -> None:
        """Add rows for the first records of a gap, which then starts at offset ``rest``."""
        if gap.name not in self._files:  # deleted in the meantime
            return
        file, _ = self._files[gap.name]
        self._insert(file, offsets, block, is_again=True)
        self._execute("DELETE FROM gap WHERE file = ? AND start = ?", [file, gap.start])
        if rest < gap.end:
            self._execute("INSERT INTO gap VALUES (?, ?, ?)", [file, rest, gap.end])

    def add_strays(self, name: str, offsets: NDArray[np.int64], block: EvidenceBlock) -> None:
        """Add rows for records that belong to this day, in a gap that another day's database has."""
        file, end = self._files.get(name) or self._new_file(name, block.linktype)
        self._insert(file, offsets, block, is_again=True)
        self._set_end(name, file, max(end, int(offsets[-1] + block.record_bytes[-1])))

    def note(self, notes: Sequence[ConversationNote]) -> None:
        """Add what is known of conversations, or replace it."""
        self._connection.executemany(
            f"INSERT OR REPLACE INTO conversation VALUES ({', '.join('?' * 11)})", map(note_row, notes)
        )

    def interrupt(self) -> None:
        """Note that conversations that are open were interrupted: the process that kept them has ended."""
        self._execute("UPDATE conversation SET ended = ? WHERE ended = ?", [Ending.INTERRUPTED, Ending.OPEN])

    def gaps(self) -> list[Gap]:
        """Return the gaps, the newest file first."""
        rows = self._execute(
            "SELECT name, start, gap.end FROM gap JOIN file USING (file) WHERE name IS NOT NULL"
            " ORDER BY name DESC, start"
        )
        return [Gap(*row) for row in rows_of(rows, str, int, int)]

    def files(self) -> dict[str, int]:
        """Return the offset up to which each file is known."""
        return {name: end for name, (_, end) in self._files.items()}

    def _new_file(self, name: str, linktype: int) -> tuple[int, int]:
        cursor = self._execute(
            "INSERT INTO file VALUES (NULL, ?, ?, ?, 0, ?, -1)",
            [name, linktype, FILE_HEADER_BYTES, (1 << 63) - 1],
        )
        self._files[name] = inserted_number(cursor), FILE_HEADER_BYTES
        return self._files[name]

    def _set_end(self, name: str, file: int, end: int) -> None:
        self._execute("UPDATE file SET end = ? WHERE file = ?", [end, file])
        self._files[name] = file, end

    def _insert(
        self, file: int, offsets: NDArray[np.int64], block: EvidenceBlock, *, is_again: bool = False
    ) -> None:
        """Insert rows; ``is_again``: they are built from a file, which does not know of conversations."""
        if not len(block):
            return
        rows = self._builder.rows(file, offsets, block)
        self._execute("SAVEPOINT rows")
        with rows.shown():
            try:
                self._execute("INSERT INTO evidence SELECT * FROM item_row")
                self._execute("INSERT INTO hit SELECT * FROM hit_row")
            except sqlite3.IntegrityError:
                self._execute("ROLLBACK TO rows")
                rows = self._insert_each(rows)
        self._execute("RELEASE rows")
        if is_again and len(rows.ids) == len(block):
            self.links.await_conversations(block, rows.ids)
        if len(rows.ids):
            steps, classes = (rows.ids // TALLY_IDS).tolist(), rows.classes.tolist()
            self._count(Counter(zip(steps, classes, strict=True)))
            self._execute(
                "UPDATE file SET pieces = pieces + ?, oldest = min(oldest, ?), newest = max(newest, ?)"
                " WHERE file = ?",
                [len(rows.ids), int(rows.ids.min()), int(rows.ids.max()), file],
            )

    def _count(self, tally: Mapping[tuple[int, int], int]) -> None:
        self._connection.executemany(
            "INSERT INTO tally VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET pieces = pieces + excluded.pieces",
            [(*key, items) for key, items in tally.items()],
        )

    def _insert_each(self, rows: Rows) -> Rows:
        """Insert rows one by one, because some of their ids are in use; return the rows inserted.

        A row that is already there is skipped; a row whose id another record has gets the next free id.
        """
        ids = rows.ids.copy()
        inserted = np.ones(len(ids), np.bool_)
        for number, (id_, *columns) in enumerate(self._execute("SELECT * FROM item_row").fetchall()):
            file, offset, segment = columns[0], columns[1], columns[-1]
            while found := self._execute("SELECT file, offset FROM evidence WHERE id = ?", [id_]).fetchone():
                if found == (file, offset):
                    self._segments.remove(segment, 1)
                    inserted[number] = False
                    break
                id_ += 1
            else:
                self._execute(_INSERT, [id_, *columns])
                ids[number] = id_
        chosen = inserted[rows.item_of_match]
        self._connection.executemany(
            _INSERT_MATCH,
            zip(rows.rules[chosen].tolist(), ids[rows.item_of_match[chosen]].tolist(), strict=True),
        )
        return rows._replace(ids=ids[inserted], classes=rows.classes[inserted])

    def forget(self, *names: str) -> None:
        """Hide the rows of files that no longer exist; `purge` deletes them."""
        for name in names:
            file, _ = self._files.pop(name, (None, 0))
            self._execute("UPDATE file SET name = NULL WHERE file = ?", [file])
            self._execute("DELETE FROM gap WHERE file = ?", [file])

    def cut(self, name: str, size: int) -> None:
        """Delete the rows of records that lie beyond the new end of the file, wholly or partly."""
        file, _ = self._files[name]
        self._delete(
            self._execute(
                f"{_SELECT} WHERE file = ? AND offset + caplen + ? > ?",
                [file, RECORD_HEADER_BYTES, size],
            ).fetchall(),
            file,
        )
        self._execute("DELETE FROM gap WHERE file = ? AND start >= ?", [file, size])
        self._execute("UPDATE gap SET end = ? WHERE file = ? AND end > ?", [size, file, size])
        self._set_end(name, file, size)

    def purge(self, limit: int) -> tuple[bool, bool]:
        """Delete up to ``limit`` rows of files that no longer exist.

        Returns whether no file is left, so that the database can be deleted, and whether more such rows
        may remain.
        """
        found = self._execute("SELECT file, oldest, newest FROM file WHERE name IS NULL LIMIT 1").fetchall()
        if not found or not self._files:
            return not self._files, False
        [(file, oldest, newest)] = rows_of(found, int, int, int)
        rows = self._execute(
            f"{_SELECT} WHERE id BETWEEN ? AND ? AND file = ? LIMIT ?", [oldest, newest, file, limit]
        ).fetchall()
        self._delete(rows, file)
        if len(rows) < limit:
            self._execute("DELETE FROM file WHERE file = ?", [file])
        return False, True

    def _delete(self, rows: list[tuple[int, int, int, str | None]], file: int) -> None:
        self._count({key: -n for key, n in Counter((row[0] // TALLY_IDS, row[2]) for row in rows).items()})
        execute_many = self._connection.executemany
        execute_many("DELETE FROM evidence WHERE id = ?", ((row[0],) for row in rows))
        execute_many(
            "DELETE FROM hit WHERE rule = ? AND id = ?",
            ((number, id_) for id_, _, _, rules in rows for number in parse_list(rules)),
        )
        for segment, items in Counter(row[1] for row in rows).items():
            self._segments.remove(segment, items)
        self._execute("UPDATE file SET pieces = pieces - ? WHERE file = ?", [len(rows), file])


def _create(path: Path) -> FileIdentity | None:
    """Create the file of a database, if there is none; return its identity.

    SQLite would make it readable for all, and follow a link.

    Raises:
        UnusableError: something else has its name.
        OSError: it cannot be created.
    """
    try:
        check_database(path, is_written=True)
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    except ForeignFileError as error:
        raise UnusableError(str(error.strerror)) from error
    try:
        status = os.fstat(descriptor)
        if not status.st_size and stat.S_IMODE(status.st_mode) != MODE:
            with contextlib.suppress(PermissionError):  # a sandbox may forbid it
                os.fchmod(descriptor, MODE)  # whatever the umask is: the API reads it
        return identity(descriptor)
    finally:
        os.close(descriptor)


def _with_equal_rules(blocks: Sequence[EvidenceBlock]) -> list[EvidenceBlock]:
    """Join blocks that follow each other and have the same rules."""
    edges = [0, *(n for n in range(1, len(blocks)) if not blocks[n].has_rules_of(blocks[n - 1])), len(blocks)]
    return [joined(blocks[first:end]) for first, end in pairwise(edges)]
