"""One day's index database, read. Runs where evidence is looked up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sensor.errors import EvidenceError
from sensor.evidence.evidence_file import open_evidence
from sensor.evidence.index_schema import CLASS_BITS, TALLY_IDS, TALLY_US, Day, connect_readonly
from sensor.evidence.pcap import Record, read_record
from sensor.evidence.query import Condition, Query, conditions
from sensor.evidence.selection import Row, Selection, tally_histogram, torn_steps
from sensor.model import FiveTuple

TEXT_STEP = 1000
"""After so many payloads without the text in them a search says how far it is."""


class StoredMatch(NamedTuple):
    """A rule, as it was when it hit, and where in the payload."""

    rule_class: str
    rule_id: int
    type: str
    name: str
    version: str | None
    vendor: str | None
    os: str | None
    start: int
    end: int


class Stored(NamedTuple):
    """A piece of evidence as the index knows it."""

    key: str
    """Names it for as long as it is kept; may stand in a URL."""
    devid: int
    time_us: int
    path: Path
    """Its file, by the final name."""
    offset: int
    """Where its record starts in the file."""
    caplen: int
    wirelen: int
    linktype: int
    interface: str
    five_tuple: FiveTuple
    vlan: tuple[int, ...]
    """Tag control information of each tag, outer first."""
    payload_start: int
    payload_end: int
    matches: tuple[StoredMatch, ...]


class RecordPlace(NamedTuple):
    """Where a packet is, and what its record header says."""

    offset: int
    time_us: int
    caplen: int
    wirelen: int


class Summary(NamedTuple):
    """What a database holds."""

    items: int
    oldest_us: int | None
    newest_us: int | None
    files: dict[str, tuple[int, int]]
    """By name: up to which offset the file is known, and how many bytes of that are in gaps."""


class DayReader:
    """Open until it is closed.

    Everything raises `sqlite3.Error` where the database is missing, locked, torn or foreign.
    """

    def __init__(self, path: Path, day: Day, devid: int) -> None:
        self.day = day
        self._directory = path.parent
        self._devid = devid
        self._connection = connect_readonly(path)
        self._rules: dict[int, tuple[Any, ...]] = {}

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def between(self, low: int, high: int) -> list[Stored]:
        """Return the pieces with ids from ``low`` up to ``high``; all at once, so there should be few."""
        rows = Selection(self._connection, [], low, high).all_rows()
        return [self._stored(row) for row in rows]

    def select(
        self, query: Query, low: int, high: int, *, newest_first: bool, further: Sequence[Condition] = ()
    ) -> Iterator[tuple[int, Stored | None]]:
        """Give what the query asks for among the ids from ``low`` up to ``high``, in order.

        An id with None says that everything before it, in that order, has been given.
        """
        rows = self._selection(query, low, high, further).rows(newest_first=newest_first)
        if query.text is None:
            yield from ((id_, self._stored(row) if row else None) for id_, row in rows)
            return
        text = query.text.lower()
        with closing(Records()) as records:
            for number, (id_, row) in enumerate(rows):
                stored = self._stored(row) if row else None
                if stored is None or text in _payload(stored, records).lower():
                    yield id_, stored
                elif number % TEXT_STEP == 0:
                    yield id_, None

    def histogram(self, query: Query, start_us: int, bin_us: int) -> Iterator[tuple[int, int, int]]:
        """Count what the query asks for, but for its text: number of the bin, set of classes, pieces."""
        day = self.day
        low = 0 if query.since_us is None else max(0, day.first_id(query.since_us))
        high = day.end_id if query.until_us is None else min(day.end_id, day.first_id(query.until_us))
        bins = day.start_us - start_us, bin_us
        only_class = replace(query, since_us=None, until_us=None, devid=None, text=None, rule_class=None)
        [is_tidy] = self._connection.execute(
            "SELECT NOT EXISTS (SELECT 1 FROM file WHERE name IS NULL)"
        ).fetchone()
        if only_class != Query() or not is_tidy or bin_us < 2 * TALLY_US:
            yield from self._selection(query, low, high).histogram(*bins)
            return
        first, last = -(-low // TALLY_IDS), high // TALLY_IDS  # steps that lie wholly inside
        bit = CLASS_BITS[query.rule_class] if query.rule_class else None
        yield from tally_histogram(self._connection, first, last, bit, *bins)
        torn = torn_steps(first, last, *bins)
        edges = [(low, first * TALLY_IDS), (last * TALLY_IDS, high)] if first <= last else [(low, high)]
        for low_, high_ in edges + [(at * TALLY_IDS, (at + 1) * TALLY_IDS) for at in torn]:
            if low_ < high_:
                yield from self._selection(query, low_, high_).histogram(*bins)

    def summary(self) -> Summary:
        """Say what is there."""
        execute = self._connection.execute
        files = {
            name: (end, gaps)
            for name, end, gaps in execute(
                "SELECT name, end, (SELECT ifnull(sum(g.end - start), 0) FROM gap g WHERE g.file = file.file)"
                " FROM file WHERE name IS NOT NULL"
            )
        }
        items, oldest, newest = execute(
            "SELECT ifnull(sum(pieces), 0), min(oldest), max(newest) FROM file"
            " WHERE name IS NOT NULL AND pieces > 0"
        ).fetchone()
        if not items:
            return Summary(0, None, None, files)
        return Summary(items, self.day.time_us(oldest), self.day.time_us(newest), files)

    def places(self, name: str) -> Iterator[RecordPlace]:
        """Give the place of each packet of a file that has a row, in the file's order."""
        rows = self._connection.execute(
            "SELECT offset, id, caplen, evidence.wirelen FROM file CROSS JOIN evidence USING (file)"
            " WHERE name = ? AND id BETWEEN oldest AND newest ORDER BY offset",
            [name],
        )
        return (
            RecordPlace(offset, self.day.time_us(id_), caplen, wirelen)
            for offset, id_, caplen, wirelen in rows
        )

    def _selection(self, query: Query, low: int, high: int, further: Sequence[Condition] = ()) -> Selection:
        parts = [*conditions(query, self._connection), *further]
        return Selection(self._connection, parts, low, high)

    def _stored(self, row: Row) -> Stored:
        (
            id_, name, linktype, offset, caplen, wirelen, interface, protocol, source, sport,
            destination, dport, vlan, payload_start, payload_end, matches,
        ) = row  # fmt: skip
        return Stored(
            f"{self._devid}-{self.day}-{id_}",
            self._devid,
            self.day.time_us(id_),
            self._directory / name,
            offset,
            caplen,
            wirelen,
            linktype,
            interface,
            FiveTuple(protocol, source, sport, destination, dport),
            tuple(int.from_bytes(vlan[at : at + 2], "big") for at in range(0, len(vlan), 2)) if vlan else (),
            payload_start,
            payload_end,
            tuple(self._match(*match) for match in json.loads(matches)) if matches else (),
        )

    def _match(self, number: int, start: int, end: int, version: str | None) -> StoredMatch:
        if number not in self._rules:
            self._rules[number] = self._connection.execute(
                "SELECT class, rule_id, type, name, vendor, os FROM rule WHERE rule = ?", [number]
            ).fetchone()
        rule_class, rule_id, type_, name, vendor, os = self._rules[number]
        return StoredMatch(rule_class, rule_id, type_, name, version, vendor, os, start, end)


class Records:
    """Packets by their place; the file last read stays open until this is closed."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: BinaryIO | None = None

    def read(self, stored: Stored) -> Record:
        """Read the packet from its file.

        Raises `EvidenceError` where the file is gone, or has another packet there.
        """
        try:
            if self._file is None or self._path != stored.path:
                self.close()
                self._file, self._path = open_evidence(stored.path), stored.path
            record = read_record(self._file, stored.offset, stored.caplen)
        except FileNotFoundError as error:
            raise EvidenceError(f"{stored.path} is gone, and the packet with it") from error
        except OSError as error:
            raise EvidenceError(f"{stored.path} cannot be read: {error.strerror}") from error
        if record is None or (record.time_us, record.wirelen) != (stored.time_us, stored.wirelen):
            raise EvidenceError(
                f"{stored.path} does not have the packet that the index knows at byte {stored.offset};"
                " find out with: sensor evidence verify"
            )
        return record

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
        self._file = None


def _payload(stored: Stored, records: Records) -> bytes:
    """Return the payload; nothing where the packet cannot be read: it does not have the text."""
    try:
        return records.read(stored).frame[stored.payload_start : stored.payload_end]
    except EvidenceError:
        return b""
