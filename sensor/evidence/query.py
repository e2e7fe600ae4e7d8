"""Queries of the index, and their conditions in SQL. Runs in the API process and in ``sensor evidence``."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

from sensor.evidence.index_schema import CLASS_BITS
from sensor.model import FiveTuple, RuleClass


@dataclass(frozen=True)
class Query:
    """A filter for evidence; None matches everything."""

    since_us: int | None = None
    until_us: int | None = None
    """Half-open range, in microseconds since the epoch."""
    devid: int | None = None
    network: IPv4Network | IPv6Network | None = None
    """Matches the source or the destination address."""
    port: int | None = None
    """Matches the source or the destination port."""
    protocol: int | None = None
    rule_class: RuleClass | None = None
    rule_id: int | None = None
    """Together with ``rule_class``: a rule that has both."""
    text: bytes | None = None
    """Text anywhere in the payload, as it is or URL-decoded; the case of ASCII letters is ignored."""


class Condition(NamedTuple):
    """One condition of a query, as SQL for a row of ``evidence``."""

    where: str
    values: dict[str, Any]
    ids: str | None = None
    """A SELECT of the ids from ``:low`` up to ``:high`` that meet the condition; None without an index."""


def conditions(query: Query, connection: sqlite3.Connection) -> list[Condition]:
    """Return the conditions of a query to this database, except time, device and text."""
    found = []
    if query.network is not None:
        ends = query.network.network_address.packed, query.network.broadcast_address.packed
        found.append(_either_side("network", ("source", "destination"), *ends))
    if query.port is not None:
        found.append(_either_side("port", ("sport", "dport"), query.port, query.port))
    if query.protocol is not None:
        found.append(Condition("protocol = :protocol", {"protocol": query.protocol}))
    if query.rule_class is not None or query.rule_id is not None:
        rules = connection.execute(
            "SELECT rule FROM rule WHERE class = ifnull(?, class) AND rule_id = ifnull(?, rule_id)",
            [query.rule_class, query.rule_id],
        )
        numbers = [number for (number,) in rules]
        found.append(_rules(numbers, query.rule_class if query.rule_id is None else None))
    return found


def _either_side(name: str, columns: tuple[str, str], low: bytes | int, high: bytes | int) -> Condition:
    low_, high_ = f":{name}_low", f":{name}_high"
    same_family = f" AND length({columns[0]}) = length({low_})" if isinstance(low, bytes) else ""
    sides = (f"evidence.{column} BETWEEN {low_} AND {high_}" for column in columns)
    where = f"(({' OR '.join(sides)}){same_family})"
    ids = " UNION ".join(
        f"SELECT evidence.id FROM segment CROSS JOIN evidence INDEXED BY evidence_{column}"
        f" ON evidence.segment = segment.segment AND evidence.{column} BETWEEN {low_} AND {high_}"
        " WHERE segment.start < :high AND segment.newest >= :low"
        " AND evidence.id >= :low AND evidence.id < :high"
        for column in columns
    )
    return Condition(where, {f"{name}_low": low, f"{name}_high": high}, ids)


def _rules(numbers: Sequence[int], rule_class: RuleClass | None) -> Condition:
    listed = f"({','.join(map(str, numbers))})"
    where = f"EXISTS (SELECT 1 FROM hit WHERE hit.rule IN {listed} AND hit.id = evidence.id)"
    if rule_class:
        where = f"classes & {CLASS_BITS[rule_class]}"
    ids = f"SELECT DISTINCT id FROM hit WHERE rule IN {listed} AND id >= :low AND id < :high"
    return Condition(where, {}, ids)


def flow_conditions(five_tuple: FiveTuple) -> list[Condition]:
    """Return conditions for both directions of a flow, regardless of the VLAN."""
    protocol, source, sport, destination, dport = five_tuple
    ends = {"a": source, "a_port": sport, "b": destination, "b_port": dport, "protocol": protocol}
    where = (
        "protocol = :protocol AND ((source = :a AND sport = :a_port AND destination = :b AND dport = :b_port)"
        " OR (source = :b AND sport = :b_port AND destination = :a AND dport = :a_port))"
    )
    return [
        Condition(where, ends),
        _either_side("address", ("source", "destination"), source, source),
        _either_side("other", ("source", "destination"), destination, destination),
        _either_side("sport", ("sport", "dport"), sport, sport),
        _either_side("dport", ("sport", "dport"), dport, dport),
    ]
