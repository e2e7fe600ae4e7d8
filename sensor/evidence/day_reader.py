"""Reads the index database of one day. Runs in the API process and in ``sensor evidence``."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import NamedTuple, TypeVar

from sensor.errors import EvidenceError
from sensor.evidence.conversation import ConversationNote
from sensor.evidence.conversation_codec import note_of_row, tags_of
from sensor.evidence.evidence_file import reading
from sensor.evidence.index_connection import DamagedRowError, Row, connect_readonly, interrupt_by, rows_of
from sensor.evidence.index_schema import CLASS_BITS, TALLY_IDS, TALLY_US, Day
from sensor.evidence.pcap import SNAPLEN
from sensor.evidence.query import Condition, Query, conditions
from sensor.evidence.row_builder import parse_list
from sensor.evidence.rule_text import parse_http, parse_rule
from sensor.evidence.selection import Selection, straddling_steps, tally_histogram
from sensor.evidence.stored import Stored, StoredRecords
from sensor.model import FiveTuple, Role, Rule
from sensor.rules.engine.http_payload import RFC9110, HttpReading, url_decode

TEXT_STEP = 1000
"""Number of payloads without the text after which a search reports how far it has come."""

T = TypeVar("T")
_MatchedRule = tuple[Rule, HttpReading, str]
"""A rule, the definition of HTTP that it was matched with, and the digest of its files."""
_ROLES = tuple(Role)
_NO_RULE = None, RFC9110, ""
_COLUMN_TYPES = {
    (int, str, int, int, int, int, str, int, bytes, int, bytes, int, vlan, int, int, rules, int, int, number)
    for vlan in (bytes, NoneType)
    for rules in (str, NoneType)
    for number in (int, NoneType)
}
"""The types of `sensor.evidence.selection.COLUMNS`."""

log = logging.getLogger(__name__)


class RecordPlace(NamedTuple):
    """The place of a record, the contents of its header, and whether it is context."""

    offset: int
    time_us: int
    caplen: int
    wirelen: int
    is_context: bool


class Summary(NamedTuple):
    """The contents of a database."""

    items: int
    oldest_us: int | None
    newest_us: int | None
    files: dict[str, tuple[int, int]]
    """By file name: the offset up to which the file is known, and the bytes of it that are in gaps."""


def never_ends() -> None:
    """Let a query take as long as it takes."""


class DayReader:
    """Reads one database; ``check`` is called often meanwhile, and raises to end a query.

    Raises:
        sqlite3.Error: the database is missing, locked, damaged or foreign. Every method can raise this.
    """

    def __init__(self, path: Path, day: Day, devid: int, check: Callable[[], None] = never_ends) -> None:
        self.day = day
        self._check = check
        self._directory = path.parent
        self._devid = devid
        self._connection = connect_readonly(path)
        interrupt_by(self._connection, check)
        self._rules: dict[int, _MatchedRule] = {}

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def between(self, low: int, high: int) -> list[Stored]:
        """Return all items with ids from ``low`` up to, not including, ``high``."""
        rows = Selection(self._connection, [], low, high).all_rows()
        return [self._stored(row) for row in rows]

    def select(
        self, query: Query, low: int, high: int, *, newest_first: bool, extra: Sequence[Condition] = ()
    ) -> Iterator[tuple[int, Stored | None]]:
        """Yield the matching items with ids from ``low`` up to, not including, ``high``, in order.

        An id with None means that all items before it, in that order, have been yielded.
        """
        rows = self._selection(query, low, high, extra).rows(newest_first=newest_first)
        text = (query.text or b"").lower()
        with closing(StoredRecords()) as records:
            for number, (id_, row) in enumerate(rows):
                self._check()
                stored = self._stored(row) if row else None
                if stored is None or not text or _has_text(text, _payload(stored, records)):
                    yield id_, stored
                elif number % TEXT_STEP == 0:
                    yield id_, None

    def histogram(self, query: Query, start_us: int, bin_us: int) -> Iterator[tuple[int, int, int]]:
        """Count the matching items, without regard to the query's text.

        Yields the number of the bin, the bits of a set of classes, and the number of items.
        """
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
        first, last = -(-low // TALLY_IDS), high // TALLY_IDS  # steps that lie wholly in the range
        bit = CLASS_BITS[query.rule_class] if query.rule_class else None
        yield from tally_histogram(self._connection, first, last, bit, *bins)
        straddling = straddling_steps(first, last, *bins)
        edges = [(low, first * TALLY_IDS), (last * TALLY_IDS, high)] if first <= last else [(low, high)]
        for low_, high_ in edges + [(at * TALLY_IDS, (at + 1) * TALLY_IDS) for at in straddling]:
            if low_ < high_:
                yield from self._selection(query, low_, high_).histogram(*bins)

    def summary(self) -> Summary:
        """Return what the database contains."""
        execute = self._connection.execute
        found = execute(
            "SELECT name, end, (SELECT ifnull(sum(g.end - start), 0) FROM gap g WHERE g.file = file.file)"
            " FROM file WHERE name IS NOT NULL"
        )
        files = {name: (end, gaps) for name, end, gaps in rows_of(found, str, int, int)}
        totals = execute(
            "SELECT ifnull(sum(pieces), 0), ifnull(min(oldest), 0), ifnull(max(newest), 0) FROM file"
            " WHERE name IS NOT NULL AND pieces > 0"
        )
        [(items, oldest, newest)] = rows_of(totals, int, int, int)
        if not 0 <= oldest <= newest < self.day.end_id:
            raise DamagedRowError("a file is damaged")
        if not items:
            return Summary(0, None, None, files)
        return Summary(items, self.day.time_us(oldest), self.day.time_us(newest), files)

    def places(self, name: str) -> Iterator[RecordPlace]:
        """Return the place of each indexed record of a file, in the order of the file."""
        rows = self._connection.execute(
            "SELECT offset, id, caplen, evidence.wirelen, role FROM file CROSS JOIN evidence USING (file)"
            " WHERE name = ? AND id BETWEEN oldest AND newest ORDER BY offset",
            [name],
        )
        return (
            RecordPlace(offset, self.day.time_us(id_), caplen, wirelen, role != Role.HIT)
            for offset, id_, caplen, wirelen, role in rows_of(rows, int, int, int, int, int)
        )

    def conversation(self, number: int) -> list[Stored]:
        """Return the packets of a conversation that are of this day, in the order of time."""
        ids = "SELECT id FROM evidence INDEXED BY evidence_conversation WHERE conversation = :conversation"
        part = Condition("conversation = :conversation", {"conversation": number})
        rows = Selection(self._connection, [part], 0, self.day.end_id, ids).all_rows()
        return [self._stored(row) for row in rows]

    def conversation_note(self, number: int) -> list[ConversationNote]:
        """Return what is known of a conversation beside its packets: one note, or none."""
        rows = self._connection.execute("SELECT * FROM conversation WHERE conversation = ?", [number])
        return [note_of_row(row) for row in rows]

    def conversation_numbers(self, query: Query, low: int, high: int) -> Iterator[int]:
        """Yield the conversations from ``low`` up to, not including, ``high``, the highest number first.

        One of the matches of each meets the query, whose times and text are ignored.
        """
        parts = conditions(query, self._connection)
        values = {name: value for part in parts for name, value in part.values.items()}
        rows = self._connection.execute(
            "SELECT DISTINCT conversation FROM evidence INDEXED BY evidence_conversation"
            " CROSS JOIN file USING (file)"
            " WHERE conversation IS NOT NULL AND conversation >= :low AND conversation < :high"
            f" AND role = {Role.HIT} AND file.name IS NOT NULL"
            f"{''.join(f' AND {part.where}' for part in parts)} ORDER BY conversation DESC",
            {**values, "low": low, "high": high},
        )
        return (number for (number,) in rows_of(rows, int))

    def _selection(self, query: Query, low: int, high: int, extra: Sequence[Condition] = ()) -> Selection:
        parts = [*conditions(query, self._connection), *extra]
        return Selection(self._connection, parts, low, high)

    def _stored(self, row: Row) -> Stored:
        if not _is_sound(row):
            raise DamagedRowError("a row is damaged")
        (
            id_, name, linktype, offset, caplen, wirelen, interface, protocol, source, sport,
            destination, dport, vlan, payload_start, payload_end, rules, incomplete, role, conversation,
        ) = row  # fmt: skip
        matched = [self._rule(number) for number in parse_list(rules)]
        _, http, digest = matched[0] if matched else _NO_RULE
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
            tags_of(vlan),
            payload_start,
            payload_end,
            tuple(rule for rule, _, _ in matched),
            bool(incomplete),
            http,
            digest,
            Role(role),
            conversation or None,
        )

    def _rule(self, number: int) -> _MatchedRule:
        if number not in self._rules:
            row = self._connection.execute(
                "SELECT text, http, digest FROM rule JOIN rule_set USING (rule_set) WHERE rule = ?", [number]
            ).fetchone()
            try:
                text, http, digest = row
                self._rules[number] = parse_rule(text), parse_http(http), digest
            except (TypeError, ValueError) as error:
                raise sqlite3.DatabaseError(f"rule {number} is missing or damaged") from error
        return self._rules[number]


def _is_sound(row: Row) -> bool:
    """Return True if the values of `COLUMNS` have the types and sizes that a sensor writes."""
    if tuple(map(type, row)) not in _COLUMN_TYPES:
        return False
    _, _, _, offset, caplen, _, _, _, source, _, destination, _, _, start, end, _, _, role, _ = row
    return (
        offset >= 0
        and 0 <= caplen <= SNAPLEN
        and 0 <= start <= end
        and len(source) == len(destination)
        and len(source) in (4, 16)
        and role in _ROLES
    )


def _has_text(text: bytes, payload: bytes) -> bool:
    """Return True if a payload has a text in lower case, as it is or URL-decoded once."""
    if text in payload.lower():
        return True
    return any(escape in payload for escape in b"%+") and text in url_decode(payload).lower()


def _payload(stored: Stored, records: StoredRecords) -> bytes:
    """Return the payload, or no bytes if the packet cannot be read."""
    try:
        return records.read(stored).frame[stored.payload_start : stored.payload_end]
    except EvidenceError:
        return b""


def query_day(
    path: Path,
    day: Day,
    devid: int,
    question: Callable[[DayReader], Iterable[T]],
    *,
    needs_all: bool = False,
    check: Callable[[], None] = never_ends,
) -> Iterator[T]:
    """Yield what ``question`` finds in a database, up to the point where the database cannot be read.

    Such a failure is logged. If the database was deleted with its evidence, that is not a failure. What
    ``check`` raises ends the query.

    Raises:
        EvidenceError: the directory cannot be read; or the database cannot, and ``needs_all`` is set.
    """
    try:
        check()
        with closing(DayReader(path, day, devid, check)) as reader:
            yield from question(reader)
    except sqlite3.Error as error:
        check()  # it may have interrupted the database
        with reading(path.parent):
            path.lstat()
            if needs_all:
                raise EvidenceError(
                    f"{path} cannot be read ({error}); if this persists: sensor evidence reindex"
                ) from error
            log.warning("%s cannot be read, so its evidence is not found: %s", path, error)
