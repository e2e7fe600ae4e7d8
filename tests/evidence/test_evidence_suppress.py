"""Suppression: a flood is cut at the limit, counted, and takes nobody else's evidence with it."""

from __future__ import annotations

from evidence_samples import NOON_S, NS, item

from sensor.evidence.suppression import Suppressor
from sensor.model import Evidence, FiveTuple, Match, Rule


def hit(time_ns: int, *rule_ids: int, sport: int = 1, reverse: bool = False) -> Evidence:
    """Evidence of these rules, in one direction of a flow or the other."""
    five_tuple = FiveTuple(6, b"aaaa", sport, b"bbbb", 80)
    if reverse:
        five_tuple = FiveTuple(6, b"bbbb", 80, b"aaaa", sport)
    matches = tuple(Match(Rule(rule_id, "threat", "t", "n", "x"), 0, 1) for rule_id in rule_ids)
    return item(time_ns=time_ns)._replace(five_tuple=five_tuple, matches=matches)


NOON_NS = NOON_S * NS


def test_no_more_than_the_limit_in_a_second() -> None:
    """Of a flow's two directions together, per second of packet time; the rest is counted."""
    suppressor = Suppressor(3)
    flood = [hit(NOON_NS + i, 1, reverse=bool(i % 2)) for i in range(10)]
    assert suppressor.admit(flood) == flood[:3]
    assert suppressor.admit([hit(NOON_NS + NS, 1)]) == [hit(NOON_NS + NS, 1)]
    assert suppressor.suppressed == 7
    assert suppressor.matches == {"threat": 7}


def test_other_rules_and_flows_are_kept() -> None:
    """A flood of one rule and flow hides neither another flow's hit nor another rule's."""
    suppressor = Suppressor(1)
    suppressor.admit([hit(NOON_NS, 1)])
    assert suppressor.admit([hit(NOON_NS, 1)]) == []
    others = [hit(NOON_NS, 1, sport=2), hit(NOON_NS, 1, 2)]
    assert suppressor.admit(others) == others


def test_zero_keeps_all() -> None:
    """The limit can be switched off."""
    flood = [hit(NOON_NS, 1)] * 5
    assert Suppressor(0).admit(flood) == flood


def test_evidence_of_flows_is_kept() -> None:
    """What is kept without a match, for its flow, is never a flood."""
    suppressor = Suppressor(1)
    assert len(suppressor.admit([hit(NOON_NS)] * 5)) == 5


def test_seconds_out_of_order_are_counted_apart() -> None:
    """Rings of several CPUs interleave the ends of seconds: a limit holds for each second all the same."""
    suppressor = Suppressor(1)
    times = [NOON_NS + NS, NOON_NS, NOON_NS + NS, NOON_NS]
    assert len(suppressor.admit([hit(time_ns, 1) for time_ns in times])) == 2
