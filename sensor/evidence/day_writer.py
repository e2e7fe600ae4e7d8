"""The index database of one UTC day, open for writing. Runs with the evidence writer.

Used as a context manager a `DayWriter` is a transaction. When that fails the object is of no use any more:
what it remembers may be ahead of the database.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from sensor.evidence.index_schema import (
    CLASS_BITS,
    NO_INTERFACE,
    OFFSET_BITS,
    OFFSET_MASK,
    SCHEMA,
    TALLY_IDS,
    Day,
    check_ours,
)
from sensor.evidence.pcap import FILE_HEADER_BYTES, RECORD_HEADER_BYTES, SNAPLEN
from sensor.evidence.segments import Segments
from sensor.model import Evidence, LinkType, Match, Rule

_SETTINGS = (
    "journal_mode = WAL",
    "synchronous = OFF",
    "cache_size = -65536",
    "temp_store = MEMORY",
)
_INSERT = f"INSERT INTO evidence VALUES ({', '.join('?' * 17)})"
_SELECT = "SELECT id, segment, classes, matches FROM evidence"
_CLASSES, _MATCHES = 14, 15
"""Their places in a row."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class UnusableError(Exception):
    """The database is torn or foreign, or was in use when the machine went down."""


class Gap(NamedTuple):
    """Records of a file that have no rows yet."""

    name: str
    start: int
    end: int
    """Offsets of the first record, and behind the last."""


class DayWriter:
    """One database, created where there is none.

    Raises `UnusableError`, or `sqlite3.OperationalError` where it is locked or the disk is full.
    """

    def __init__(self, path: Path, day: Day, interface_name: Callable[[int], str]) -> None:
        self._start_us = day.start_us
        self._interface_name = interface_name
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        self._execute = self._connection.execute
        try:
            self._open(path)
            self._load()
        except sqlite3.OperationalError:
            self.abandon()
            raise
        except sqlite3.DatabaseError as error:
            self.abandon()
            raise UnusableError(str(error)) from error

    def _open(self, path: Path) -> None:
        execute = self._connection.execute
        boot_id = _BOOT_ID.read_text().strip()
        # Without tables it is new, or its making was broken off.
        is_new = execute("SELECT 1 FROM sqlite_schema").fetchone() is None
        if not is_new:
            check_ours(self._connection)
        for setting in _SETTINGS:
            execute(f"PRAGMA {setting}")
        if is_new:
            path.chmod(0o640)
            self._connection.executescript(f"BEGIN; {SCHEMA} COMMIT")
        elif execute("SELECT 1 FROM boot WHERE boot_id != ?", [boot_id]).fetchone():
            raise sqlite3.DatabaseError("the machine went down while it was in use")
        execute("INSERT INTO boot SELECT ? WHERE NOT EXISTS (SELECT 1 FROM boot)", [boot_id])

    def _load(self) -> None:
        execute = self._connection.execute
        self._files: dict[str, tuple[int, int]] = {
            name: (file, end)
            for file, name, end in execute("SELECT file, name, end FROM file WHERE name IS NOT NULL")
        }
        self._interfaces: dict[str, int] = dict(execute("SELECT name, interface FROM interface"))
        self._rules: dict[tuple[Any, ...], int] = {
            tuple(row): number
            for number, *row in execute("SELECT rule, class, rule_id, type, name, vendor, os FROM rule")
        }
        self._numbers: dict[int, tuple[Rule, int, int]] = {}
        self._segments = Segments(self._connection)

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
        """Close the database for good; one closed like this is trusted after a power cut."""
        with contextlib.suppress(sqlite3.Error):
            self._execute("DELETE FROM boot")
        self._connection.close()

    def abandon(self) -> None:
        """Close the database as it is after a failure."""
        self._connection.close()

    # Records that are written

    def add(self, name: str, linktype: int, offset: int, items: Sequence[Evidence]) -> bool:
        """Make the rows of records that stand in a file from an offset on, one behind the other.

        Returns whether there is now a gap before them.
        """
        offsets = list(accumulate(map(_record_bytes, items), initial=offset))
        file, end = self._files.get(name) or self._new_file(name, linktype)
        if offset < end:  # somebody removed the file, and it was begun anew
            self.forget(name)
            file, end = self._new_file(name, linktype)
        if offset > end:
            self._execute("INSERT INTO gap VALUES (?, ?, ?)", [file, end, offset])
        self._insert(file, offsets, items)
        self._set_end(name, file, offsets[-1])
        return offset > end

    def add_gap(self, name: str, size: int, linktype: int = LinkType.ETHERNET) -> None:
        """Note that the records behind those known, up to this size of the file, have no rows.

        The link type is that of a file that is not known yet.
        """
        file, end = self._files.get(name) or self._new_file(name, linktype)
        self._execute("INSERT INTO gap VALUES (?, ?, ?)", [file, end, size])
        self._set_end(name, file, size)

    def fill(self, gap: Gap, located: Sequence[tuple[int, Evidence]], rest: int) -> None:
        """Make the rows of a gap's first records; its part from offset ``rest`` on is left."""
        if gap.name not in self._files:  # deleted in the meantime
            return
        file, _ = self._files[gap.name]
        self._insert(file, *_unzip(located))
        self._execute("DELETE FROM gap WHERE file = ? AND start = ?", [file, gap.start])
        if rest < gap.end:
            self._execute("INSERT INTO gap VALUES (?, ?, ?)", [file, rest, gap.end])

    def add_strays(self, name: str, located: Sequence[tuple[int, Evidence]]) -> None:
        """Make the rows of records in a gap that another day's database has."""
        offsets, items = _unzip(located)
        file, end = self._files.get(name) or self._new_file(name, items[0].linktype)
        self._insert(file, offsets, items)
        self._set_end(name, file, max(end, offsets[-1] + _record_bytes(items[-1])))

    def gaps(self) -> list[Gap]:
        """List the gaps, the newest file first."""
        rows = self._execute(
            "SELECT name, start, gap.end FROM gap JOIN file USING (file) WHERE name IS NOT NULL"
            " ORDER BY name DESC, start"
        )
        return [Gap(*row) for row in rows]

    def files(self) -> dict[str, int]:
        """Return for each file the offset up to which it is known."""
        return {name: end for name, (_, end) in self._files.items()}

    def _new_file(self, name: str, linktype: int) -> tuple[int, int]:
        cursor = self._execute(
            "INSERT INTO file VALUES (NULL, ?, ?, ?, 0, ?, -1)",
            [name, linktype, FILE_HEADER_BYTES, (1 << 63) - 1],
        )
        self._files[name] = _number(cursor), FILE_HEADER_BYTES
        return self._files[name]

    def _set_end(self, name: str, file: int, end: int) -> None:
        self._execute("UPDATE file SET end = ? WHERE file = ?", [end, file])
        self._files[name] = file, end

    def _insert(self, file: int, offsets: Sequence[int], items: Sequence[Evidence]) -> None:
        rows, hits = self._rows(file, offsets, items)
        self._execute("SAVEPOINT rows")
        try:
            self._connection.executemany(_INSERT, rows)
            self._connection.executemany("INSERT INTO hit VALUES (?, ?)", hits)
        except sqlite3.IntegrityError:
            self._execute("ROLLBACK TO rows")
            rows = self._insert_each(rows)
        self._execute("RELEASE rows")
        if rows:
            self._count(Counter((row[0] // TALLY_IDS, row[_CLASSES]) for row in rows))
            self._execute(
                "UPDATE file SET pieces = pieces + ?, oldest = min(oldest, ?), newest = max(newest, ?)"
                " WHERE file = ?",
                [len(rows), min(rows)[0], max(rows)[0], file],
            )

    def _count(self, tally: Mapping[tuple[int, int], int]) -> None:
        self._connection.executemany(
            "INSERT INTO tally VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET pieces = pieces + excluded.pieces",
            [(*key, items) for key, items in tally.items()],
        )

    def _insert_each(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Insert rows of which some have ids that are taken: by themselves, or by another record's."""
        inserted = []
        for id_, *columns in rows:
            file, offset, segment = columns[0], columns[1], columns[-1]
            while found := self._execute("SELECT file, offset FROM evidence WHERE id = ?", [id_]).fetchone():
                if found == (file, offset):
                    self._segments.give_back(segment, 1)
                    break
                id_ += 1
            else:
                self._execute(_INSERT, [id_, *columns])
                hits = [(rule, id_) for rule, *_ in json.loads(columns[_MATCHES - 1] or "[]")]
                self._connection.executemany("INSERT INTO hit VALUES (?, ?)", hits)
                inserted.append((id_, *columns))
        return inserted

    def _rows(
        self, file: int, offsets: Sequence[int], items: Sequence[Evidence]
    ) -> tuple[list[tuple[Any, ...]], list[tuple[int, int]]]:
        """Make the rows of evidence and hits; the loop runs once for each piece, so it stays short."""
        rows: list[tuple[Any, ...]] = []
        hits: list[tuple[int, int]] = []
        interfaces: dict[int, int] = {}
        take, start_us = self._segments.take, self._start_us
        for offset, item in zip(offsets, items, strict=False):
            frame, timestamp_ns, wirelen, _, index, five_tuple, vlan, start, end, matches = item
            id_ = (timestamp_ns // 1000 - start_us) << OFFSET_BITS | offset & OFFSET_MASK
            interface = interfaces.get(index)
            if interface is None:
                interface = interfaces[index] = self._interface(index)
            classes, shown = self._note(matches, id_, hits) if matches else (0, None)
            caplen = min(len(frame), SNAPLEN)
            tags = b"".join(tci.to_bytes(2, "big") for tci in vlan) if vlan else None
            place = id_, file, offset, caplen, wirelen, interface
            rows.append((*place, *five_tuple, tags, start, end, classes, shown, take(id_)))
        return rows, hits

    def _note(self, matches: Sequence[Match], id_: int, hits: list[tuple[int, int]]) -> tuple[int, str]:
        """Append the hits; return the classes, and the matches as they are stored."""
        classes = 0
        shown = ""
        for rule, start, end, version in matches:
            known = self._numbers.get(rule.rule_id)
            if known is None or (known[0] is not rule and known[0] != rule):
                known = self._numbers[rule.rule_id] = rule, self._rule(rule), CLASS_BITS[rule.rule_class]
            _, number, bit = known
            classes |= bit
            hits.append((number, id_))
            text = "null" if version is None else json.dumps(version)
            shown += f"{',' if shown else '['}[{number},{start},{end},{text}]"
        return classes, f"{shown}]"

    def _rule(self, rule: Rule) -> int:
        row = (rule.rule_class, rule.rule_id, rule.type, rule.name, rule.vendor, rule.os)
        if row not in self._rules:
            cursor = self._execute("INSERT INTO rule VALUES (NULL, ?, ?, ?, ?, ?, ?)", row)
            self._rules[row] = _number(cursor)
        return self._rules[row]

    def _interface(self, index: int) -> int:
        name = "" if index == NO_INTERFACE else self._interface_name(index)
        if name not in self._interfaces:
            cursor = self._execute("INSERT INTO interface VALUES (NULL, ?)", [name])
            self._interfaces[name] = _number(cursor)
        return self._interfaces[name]

    # Files that are gone

    def forget(self, *names: str) -> None:
        """Hide the rows of files that are gone; `purge` deletes them."""
        for name in names:
            file, _ = self._files.pop(name, (None, 0))
            self._execute("UPDATE file SET name = NULL WHERE file = ?", [file])
            self._execute("DELETE FROM gap WHERE file = ?", [file])

    def cut(self, name: str, size: int) -> None:
        """Delete the rows of records that are not wholly within the file any more."""
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
        """Delete so many rows of files that are gone.

        Returns whether no file is left, so that the database may go, and whether there are more such rows.
        """
        row = self._execute("SELECT file, oldest, newest FROM file WHERE name IS NULL").fetchone()
        if row is None or not self._files:
            return not self._files, False
        file, oldest, newest = row
        rows = self._execute(
            f"{_SELECT} WHERE id BETWEEN ? AND ? AND file = ? LIMIT ?", [oldest, newest, file, limit]
        ).fetchall()
        self._delete(rows, file)
        if len(rows) < limit:
            self._execute("DELETE FROM file WHERE file = ?", [file])
        return False, True

    def _delete(self, rows: list[tuple[int, int, int, str | None]], file: int) -> None:
        self._count({key: -n for key, n in Counter((row[0] // TALLY_IDS, row[2]) for row in rows).items()})
        for id_, segment, _, matches in rows:
            self._execute("DELETE FROM evidence WHERE id = ?", [id_])
            for number, *_ in json.loads(matches or "[]"):
                self._execute("DELETE FROM hit WHERE rule = ? AND id = ?", [number, id_])
            self._segments.give_back(segment, 1)
        self._execute("UPDATE file SET pieces = pieces - ? WHERE file = ?", [len(rows), file])


def _record_bytes(item: Evidence) -> int:
    return RECORD_HEADER_BYTES + min(len(item.frame), SNAPLEN)


def _unzip(located: Sequence[tuple[int, Evidence]]) -> tuple[list[int], list[Evidence]]:
    return [offset for offset, _ in located], [item for _, item in located]


def _number(cursor: sqlite3.Cursor) -> int:
    """Return the number of the row that was inserted."""
    return cursor.lastrowid or 0
