"""Index rows for evidence, and the rules and interfaces they refer to. Runs with the evidence writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.index_connection import DamagedRowError, rows_of
from sensor.evidence.index_schema import CLASS_BITS, NO_INTERFACE, OFFSET_BITS, OFFSET_MASK
from sensor.evidence.rule_text import http_text, rule_text
from sensor.evidence.segments import Segments
from sensor.model import RULE_CLASSES, Rule
from sensor.native.item_rows import add_item_rows, item_rows
from sensor.rules.engine.http_payload import HttpReading

_CLASS_BITS = np.array([CLASS_BITS[rule_class] for rule_class in RULE_CLASSES], np.int64)


class Rows(NamedTuple):
    """Rows for the tables ``evidence`` and ``hit``, in columns: an entry per item, and per match."""

    items: NDArray[np.void]
    file: int
    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    interfaces: NDArray[np.int64]
    classes: NDArray[np.int64]
    segments: NDArray[np.int64]
    rules: NDArray[np.int64]
    """The rule number of each match."""
    item_of_match: NDArray[np.intp]

    def shown(self) -> AbstractContextManager[None]:
        """Return a context in which the rows are those of the tables ``item_row`` and ``hit_row``.

        The rows of ``hit_row`` are in the order of ``hit``, which is the quickest to insert.
        """
        columns = {name: column for name, column in self._asdict().items() if name != "item_of_match"}
        order = np.argsort(self.rules, kind="stable")
        hit_ids = self.ids[self.item_of_match[order]]
        return item_rows(**columns, hit_rules=self.rules[order], hit_ids=hit_ids)


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
        add_item_rows(connection)
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
        interfaces = self._interface_numbers(items["interface"])
        segments = self._segments.assign(ids)
        return Rows(items, file, ids, offsets, interfaces, classes, segments, rules, block.item_of_match)

    def _rule_numbers(self, block: EvidenceBlock) -> NDArray[np.int64]:
        """Return the rule number of each match."""
        known = self._known
        if known is None or not known.fit(block):
            known = self._known = _KnownRules(block)
        numbers = known.numbers[block.rules]
        if not numbers.all():
            rule_set = self._rule_set(block.digest, block.http)
            for position in sorted(set(block.rules[numbers == 0].tolist())):
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

    def _interface_numbers(self, indices: NDArray[np.int32]) -> NDArray[np.int64]:
        different = set(indices.tolist())
        if len(different) == 1:
            return np.full(len(indices), self._interface(different.pop()), np.int64)
        numbers = {index: self._interface(index) for index in sorted(different)}
        return np.array([numbers[index] for index in indices.tolist()], np.int64)

    def _interface(self, index: int) -> int:
        name = "" if index == NO_INTERFACE else self._interface_name(index)
        if name not in self._interfaces:
            cursor = self._execute("INSERT INTO interface VALUES (NULL, ?)", [name])
            self._interfaces[name] = inserted_number(cursor)
        return self._interfaces[name]


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
