"""Index rows for evidence, and the rules and interfaces they refer to. Runs with the evidence writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.index_connection import DamagedRowError, rows_of
from sensor.evidence.index_schema import CLASS_BITS, NO_INTERFACE, OFFSET_BITS, OFFSET_MASK
from sensor.evidence.rule_text import http_text, rule_text
from sensor.evidence.segments import Segments
from sensor.model import RULE_CLASSES, Rule
from sensor.rules.engine.http_payload import HttpReading

_CLASS_BITS = np.array([CLASS_BITS[rule_class] for rule_class in RULE_CLASSES], np.int64)


class Rows(NamedTuple):
    """Rows for the tables ``evidence`` and ``hit``, in columns."""

    ids: NDArray[np.int64]
    classes: NDArray[np.int64]
    columns: tuple[Iterable[Any], ...]
    """The columns of ``evidence`` after the id; a column may be endless. Each can be read several times."""
    rules: NDArray[np.int64]
    """The rule number of each match."""
    item_of_match: NDArray[np.intp]

    def evidence(self) -> Iterator[tuple[Any, ...]]:
        """Return the rows of ``evidence``."""
        return zip(self.ids.tolist(), *self.columns, strict=False)

    def matches(self) -> Iterator[tuple[int, int]]:
        """Return the rows of ``hit``, in the order of that table, which is the quickest to insert."""
        order = np.argsort(self.rules, kind="stable")
        ids = self.ids[self.item_of_match[order]]
        return zip(self.rules[order].tolist(), ids.tolist(), strict=True)


class _KnownRules:
    """The numbers of the rules of a block."""

    def __init__(self, block: EvidenceBlock) -> None:
        self._block = block.part(0, 0)
        self.numbers = np.zeros(len(block.rule_set), np.int64)
        """The number of each rule; 0 if it has not matched yet."""

    def fit(self, block: EvidenceBlock) -> bool:
        """Return True if another block has the same rules."""
        return block.has_rules_of(self._block)


class RowBuilder:
    """Builds the rows of one database; adds rules and interfaces to it as they first occur."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        segments: Segments,
        interface_name: Callable[[int], str],
        start_us: int,
    ) -> None:
        """Read the known rules and interfaces; ``start_us`` is the start of the day."""
        self._execute = connection.execute
        self._segments = segments
        self._interface_name = interface_name
        self._start_us = start_us
        interfaces = self._execute("SELECT name, interface FROM interface")
        self._interfaces: dict[str, int] = dict(rows_of(interfaces, str, int))
        self._rule_sets: dict[tuple[str, str], int] = {
            (digest, http): number
            for number, digest, http in rows_of(
                self._execute("SELECT rule_set, digest, http FROM rule_set"), int, str, str
            )
        }
        self._rules: dict[tuple[int, str], int] = {
            (rule_set, text): number
            for number, rule_set, text in rows_of(
                self._execute("SELECT rule, rule_set, text FROM rule"), int, int, str
            )
        }
        self._known: _KnownRules | None = None

    def rows(self, file: int, offsets: NDArray[np.int64], block: EvidenceBlock) -> Rows:
        """Return the rows of a block's items, whose records are at these offsets; assign their segments."""
        items = block.items
        ids = (items["time_ns"] // 1000 - self._start_us) << OFFSET_BITS | offsets & OFFSET_MASK
        classes = np.zeros(len(items), np.int64)
        np.bitwise_or.at(classes, block.item_of_match, _CLASS_BITS[block.classes])
        rules = self._rule_numbers(block)
        columns = (
            repeat(file),
            offsets.tolist(),
            items["caplen"].tolist(),
            items["wirelen"].tolist(),
            self._interface_numbers(items["interface"]),
            items["protocol"].tolist(),
            _addresses(items, "source"),
            items["sport"].tolist(),
            _addresses(items, "destination"),
            items["dport"].tolist(),
            _tags(items),
            items["payload_start"].tolist(),
            items["payload_end"].tolist(),
            classes.tolist(),
            _lists(items["matches"], rules),
            items["incomplete"].tolist(),
            self._segments.assign(ids).tolist(),
        )
        return Rows(ids, classes, columns, rules, block.item_of_match)

    def _rule_numbers(self, block: EvidenceBlock) -> NDArray[np.int64]:
        """Return the rule number of each match."""
        known = self._known
        if known is None or not known.fit(block):
            known = self._known = _KnownRules(block)
        numbers = known.numbers[block.rules]
        if not numbers.all():
            rule_set = self._rule_set(block.digest, block.http)
            for position in np.unique(block.rules[numbers == 0]).tolist():
                known.numbers[position] = self._rule(rule_set, block.rule_set[position])
            numbers = known.numbers[block.rules]
        return numbers

    def _rule_set(self, digest: str, http: HttpReading) -> int:
        key = digest, http_text(http)
        if key not in self._rule_sets:
            cursor = self._execute("INSERT INTO rule_set VALUES (NULL, ?, ?)", key)
            self._rule_sets[key] = inserted_number(cursor)
        return self._rule_sets[key]

    def _rule(self, rule_set: int, rule: Rule) -> int:
        key = rule_set, rule_text(rule)
        if key not in self._rules:
            values = rule_set, rule.rule_class, rule.rule_id, key[1]
            self._rules[key] = inserted_number(
                self._execute("INSERT INTO rule VALUES (NULL, ?, ?, ?, ?)", values)
            )
        return self._rules[key]

    def _interface_numbers(self, indices: NDArray[np.int32]) -> Iterable[int]:
        different, which = np.unique(indices, return_inverse=True)
        numbers = [self._interface(index) for index in different.tolist()]
        return repeat(numbers[0]) if len(numbers) == 1 else np.array(numbers, np.int64)[which].tolist()

    def _interface(self, index: int) -> int:
        name = "" if index == NO_INTERFACE else self._interface_name(index)
        if name not in self._interfaces:
            cursor = self._execute("INSERT INTO interface VALUES (NULL, ?)", [name])
            self._interfaces[name] = inserted_number(cursor)
        return self._interfaces[name]


def _addresses(items: NDArray[np.void], name: str) -> list[bytes]:
    """Return the addresses of a column, 4 or 16 bytes each."""
    is_long = items["ip_version"] == 6
    column = items[name]
    if not is_long.any():
        return _bytes(column[:, :4])
    addresses = np.empty(len(items), object)
    addresses[is_long] = _bytes(column[is_long])
    addresses[~is_long] = _bytes(column[~is_long, :4])
    return addresses.tolist()


def _bytes(rows: NDArray[np.uint8]) -> list[bytes]:
    """Return each row as bytes."""
    found: list[bytes] = np.ascontiguousarray(rows).view(f"V{rows.shape[1]}")[:, 0].tolist()
    return found


def _tags(items: NDArray[np.void]) -> Iterable[bytes | None]:
    """Return the VLAN tags of each item in network byte order; None for an item without tags."""
    counts = items["vlan_count"]
    if not counts.any():
        return repeat(None)
    tags = _bytes(items["vlan_tci"].astype(">u2").view(np.uint8))
    return [both[: 2 * count] or None for both, count in zip(tags, counts.tolist(), strict=True)]


def _lists(counts: NDArray[np.uint32], rules: NDArray[np.int64]) -> Sequence[str | None]:
    """Return the rule numbers of each item as text, separated by commas; None for an item without rules."""
    if (counts == 1).all():
        return list(map(str, rules.tolist()))
    ends = np.cumsum(counts, dtype=np.int64)
    numbers = list(map(str, rules.tolist()))
    stretches = zip((ends - counts).tolist(), ends.tolist(), strict=True)
    return [",".join(numbers[first:end]) or None for first, end in stretches]


def parse_list(rules: str | None) -> list[int]:
    """Return the rule numbers in the column ``rules`` of a row.

    Raises:
        DamagedRowError: the column holds something else.
    """
    try:
        return [int(number) for number in rules.split(",")] if rules else []
    except (AttributeError, TypeError, ValueError):
        raise DamagedRowError("a row has no list of rules") from None


def inserted_number(cursor: sqlite3.Cursor) -> int:
    """Return the number that the database gave to an inserted row."""
    return cursor.lastrowid or 0
