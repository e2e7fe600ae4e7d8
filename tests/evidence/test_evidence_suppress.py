"""Suppression: a flood is limited and counted, without affecting other evidence."""

from __future__ import annotations

from evidence_samples import NOON_S, NS, item

from sensor.evidence.suppression import Suppressor
from sensor.model import Evidence, FiveTuple, Match, Rule


def matched(time_ns: int, *rule_ids: int, sport: int = 1, reverse: bool = False) -> Evidence:
    """Return evidence with matches of these rules, in either direction of a flow."""
    five_tuple = FiveTuple(6, b"aaaa", sport, b"bbbb", 80)
    if reverse:
        five_tuple = FiveTuple(6, b"bbbb", 80, b"aaaa", sport)
    matches = tuple(Match(Rule(rule_id, "threat", "t", "n", "x"), 0, 1) for rule_id in rule_ids)
    return item(time_ns=time_ns)._replace(five_tuple=five_tuple, matches=matches)


NOON_NS = NOON_S * NS


def test_limit_per_second() -> None:
    """Both directions of a flow share the limit per second of packet time; the rest is counted."""
    suppressor = Suppressor(3)
    flood = [matched(NOON_NS + i, 1, reverse=bool(i % 2)) for i in range(10)]
    assert suppressor.admit(flood) == flood[:3]
    assert suppressor.admit([matched(NOON_NS + NS, 1)]) == [matched(NOON_NS + NS, 1)]
    assert suppressor.suppressed == 7
    assert suppressor.matches == {"threat": 7}


def test_other_rules_and_flows_are_kept() -> None:
    """A flood of one rule and flow does not suppress matches of other flows or rules."""
    suppressor = Suppressor(1)
    suppressor.admit([matched(NOON_NS, 1)])
    assert suppressor.admit([matched(NOON_NS, 1)]) == []
    others = [matched(NOON_NS, 1, sport=2), matched(NOON_NS, 1, 2)]
    assert suppressor.admit(others) == others


def test_zero_keeps_all() -> None:
    """A limit of 0 admits everything."""
    flood = [matched(NOON_NS, 1)] * 5
    assert Suppressor(0).admit(flood) == flood


def test_evidence_of_flows_is_kept() -> None:
    """Evidence without a match, kept because of its flow, is never suppressed."""
    suppressor = Suppressor(1)
    assert len(suppressor.admit([matched(NOON_NS)] * 5)) == 5


def test_seconds_out_of_order_are_counted_apart() -> None:
    """The limit applies to each second, even if rings of several CPUs deliver them interleaved."""
    suppressor = Suppressor(1)
    times = [NOON_NS + NS, NOON_NS, NOON_NS + NS, NOON_NS]
    assert len(suppressor.admit([matched(time_ns, 1) for time_ns in times])) == 2
