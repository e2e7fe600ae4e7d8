"""The rows of one day that wait for their conversations, and others between the same addresses.

Runs with the index writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.conversation_codec import tags_of
from sensor.evidence.index_connection import DamagedRowError, Row
from sensor.evidence.index_schema import Day
from sensor.evidence.open_conversation import REACH_NS
from sensor.evidence.row_builder import parse_list
from sensor.evidence.rule_text import parse_rule
from sensor.model import Role, Rule, vlan_ids

WAITING = 0
"""The conversation of a row whose conversation is still to be found; ``native/sqlite`` has it too."""
_COLUMNS = "evidence.id, protocol, source, sport, destination, dport, vlan, role, conversation, rules"
_REACH_US = REACH_NS // 1000
_WITH_PORTS = (6, 17, 132)


class AddressPair(NamedTuple):
    """Two addresses that exchange packets, in order, and what else the packets of a flow have in common."""

    protocol: int
    low: bytes
    high: bytes
    vlan_ids: tuple[int, ...]


class LinkRow(NamedTuple):
    """A row, as far as it matters for conversations."""

    time_us: int
    id_: int
    pair: AddressPair
    ports: tuple[int, int]
    """Ports of the lower and of the higher address; equal in both directions of a flow."""
    role: Role
    conversation: int | None
    rules: tuple[int, ...]

    @property
    def is_context(self) -> bool:
        """True if it is kept because of another one."""
        return self.role != Role.HIT

    @property
    def is_fragment(self) -> bool:
        """True for an IP fragment that is not the first: it has no ports."""
        return self.pair.protocol in _WITH_PORTS and self.ports == (0, 0)


class Link(NamedTuple):
    """The conversation of a row, and its role in it."""

    conversation: int | None
    role: Role
    id_: int


class LinkTable:
    """Reads and links the rows of one database, inside of its writer's transactions."""

    def __init__(self, connection: sqlite3.Connection, day: Day) -> None:
        self._connection = connection
        self._day = day

    def waiting(self, limit: int) -> list[LinkRow]:
        """Return the first rows that wait for their conversation."""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM evidence INDEXED BY evidence_conversation CROSS JOIN file USING (file)"
            f" WHERE conversation = {WAITING} AND file.name IS NOT NULL ORDER BY role, evidence.id LIMIT ?",
            [limit],
        )
        return list(self._rows(rows))

    def between(self, pair: AddressPair, low_us: int, high_us: int) -> list[LinkRow]:
        """Return the rows of packets between two addresses in a stretch of time."""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM segment CROSS JOIN evidence INDEXED BY evidence_source"
            " ON evidence.segment = segment.segment AND source IN (:a, :b) CROSS JOIN file USING (file)"
            " WHERE segment.start < :high AND segment.newest >= :low AND evidence.id >= :low"
            " AND evidence.id < :high AND destination IN (:a, :b) AND protocol = :protocol"
            " AND file.name IS NOT NULL",
            {
                "a": pair.low,
                "b": pair.high,
                "protocol": pair.protocol,
                "low": max(0, self._day.first_id(low_us)),
                "high": min(self._day.end_id, self._day.first_id(high_us + 1)),
            },
        )
        return [row for row in self._rows(rows) if row.pair == pair]

    def await_conversations(self, block: EvidenceBlock, ids: NDArray[np.int64]) -> None:
        """Let new rows wait that match, if there is a conversation between their addresses then."""
        times_us = block.items["time_ns"] // 1000
        pairs = self._pairs(int(times_us.min()) - _REACH_US, int(times_us.max()))
        if not pairs:
            return
        is_match = (block.items["matches"] > 0).tolist()
        waiting = [
            [id_]
            for id_, matches, one in zip(ids.tolist(), is_match, block.five_tuples(), strict=True)
            if matches and (one.source, one.destination) in pairs
        ]
        self._connection.executemany(
            f"UPDATE evidence SET conversation = {WAITING} WHERE id = ? AND conversation IS NULL", waiting
        )

    def _pairs(self, low: int, high: int) -> set[tuple[bytes, bytes]]:
        """Return the addresses of packets in conversations whose number is in a range, in both orders."""
        rows = self._connection.execute(
            "SELECT DISTINCT source, destination FROM evidence INDEXED BY evidence_conversation"
            " WHERE conversation BETWEEN ? AND ?",
            [max(low, WAITING + 1), high],
        )
        found = set(rows)
        return found | {(destination, source) for source, destination in found}

    def numbers(self, low: int, high: int) -> set[int]:
        """Return the numbers of conversations in a range that are in use."""
        rows = self._connection.execute(
            "SELECT DISTINCT conversation FROM evidence INDEXED BY evidence_conversation"
            " WHERE conversation BETWEEN ? AND ?",
            [max(low, WAITING + 1), high],
        )
        return {number for (number,) in rows}

    def rule(self, number: int) -> Rule:
        """Return a rule that has matched.

        Raises:
            DamagedRowError: there is no such rule.
        """
        found = self._connection.execute("SELECT text FROM rule WHERE rule = ?", [number]).fetchone()
        try:
            return parse_rule(*found)
        except (TypeError, ValueError) as error:
            raise DamagedRowError(f"rule {number} is missing or damaged") from error

    def link(self, links: Iterable[Link]) -> None:
        """Put rows into conversations."""
        self._connection.executemany("UPDATE evidence SET conversation = ?, role = ? WHERE id = ?", links)

    def _rows(self, rows: Iterable[Row]) -> Iterator[LinkRow]:
        try:
            for id_, protocol, source, sport, destination, dport, vlan, role, conversation, rules in rows:
                low, high = sorted(((source, sport), (destination, dport)))
                pair = AddressPair(protocol, low[0], high[0], tuple(vlan_ids(tags_of(vlan))))
                ports, numbers = (low[1], high[1]), tuple(parse_list(rules))
                yield LinkRow(self._day.time_us(id_), id_, pair, ports, Role(role), conversation, numbers)
        except (TypeError, ValueError) as error:
            raise DamagedRowError("a row is damaged") from error
