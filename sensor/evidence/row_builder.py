"""Index rows for evidence, and the rules and interfaces they refer to. Runs with the evidence writer."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sensor.evidence.index_schema import CLASS_BITS, NO_INTERFACE, OFFSET_BITS, OFFSET_MASK
from sensor.evidence.pcap import SNAPLEN
from sensor.evidence.segments import Segments
from sensor.model import Evidence, Match, Rule

CLASSES, MATCHES = 14, 15
"""Positions of these columns in a row of ``evidence``."""


class Rows(NamedTuple):
    """Rows for the tables ``evidence`` and ``hit``."""

    evidence: list[tuple[Any, ...]]
    matches: list[tuple[int, int]]
    """Rule number and evidence id of each match."""


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
        self._interfaces: dict[str, int] = dict(self._execute("SELECT name, interface FROM interface"))
        self._rules: dict[tuple[Any, ...], int] = {
            tuple(row): number
            for number, *row in self._execute("SELECT rule, class, rule_id, type, name, vendor, os FROM rule")
        }
        self._numbers: dict[int, tuple[Rule, int, int]] = {}

    def rows(self, file: int, offsets: Sequence[int], items: Sequence[Evidence]) -> Rows:
        """Return the rows of items whose records are at these offsets; further offsets are ignored."""
        # The loop runs once per item of evidence, so it is kept short.
        rows = Rows([], [])
        interfaces: dict[int, int] = {}
        assign_segment, start_us = self._segments.assign, self._start_us
        for offset, item in zip(offsets, items, strict=False):
            frame, timestamp_ns, wirelen, _, index, five_tuple, vlan, start, end, matches = item
            id_ = (timestamp_ns // 1000 - start_us) << OFFSET_BITS | offset & OFFSET_MASK
            interface = interfaces.get(index)
            if interface is None:
                interface = interfaces[index] = self._interface(index)
            classes, stored = self._add_matches(matches, id_, rows.matches) if matches else (0, None)
            caplen = min(len(frame), SNAPLEN)
            tags = b"".join(tci.to_bytes(2, "big") for tci in vlan) if vlan else None
            place = id_, file, offset, caplen, wirelen, interface
            rows.evidence.append(
                (*place, *five_tuple, tags, start, end, classes, stored, assign_segment(id_))
            )
        return rows

    def _add_matches(
        self, matches: Sequence[Match], id_: int, rows: list[tuple[int, int]]
    ) -> tuple[int, str]:
        """Append the rows of the matches; return the bits of their classes, and the matches as JSON."""
        classes = 0
        stored = ""
        for rule, start, end, version in matches:
            known = self._numbers.get(rule.rule_id)
            if known is None or (known[0] is not rule and known[0] != rule):
                known = self._numbers[rule.rule_id] = rule, self._rule(rule), CLASS_BITS[rule.rule_class]
            _, number, bit = known
            classes |= bit
            rows.append((number, id_))
            text = "null" if version is None else json.dumps(version)
            stored += f"{',' if stored else '['}[{number},{start},{end},{text}]"
        return classes, f"{stored}]"

    def _rule(self, rule: Rule) -> int:
        row = (rule.rule_class, rule.rule_id, rule.type, rule.name, rule.vendor, rule.os)
        if row not in self._rules:
            cursor = self._execute("INSERT INTO rule VALUES (NULL, ?, ?, ?, ?, ?, ?)", row)
            self._rules[row] = inserted_number(cursor)
        return self._rules[row]

    def _interface(self, index: int) -> int:
        name = "" if index == NO_INTERFACE else self._interface_name(index)
        if name not in self._interfaces:
            cursor = self._execute("INSERT INTO interface VALUES (NULL, ?)", [name])
            self._interfaces[name] = inserted_number(cursor)
        return self._interfaces[name]


def rule_numbers(matches: str | None) -> list[int]:
    """Return the rule numbers in the stored matches of a row."""
    return [number for number, *_ in json.loads(matches or "[]")]


def inserted_number(cursor: sqlite3.Cursor) -> int:
    """Return the number that the database gave to an inserted row."""
    return cursor.lastrowid or 0
