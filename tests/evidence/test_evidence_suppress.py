"""Suppression: a flood is limited and counted, without affecting other evidence."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

import pytest
from evidence_samples import NOON_S, NS, item

from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.suppression import Suppressor
from sensor.model import Evidence, FiveTuple, Match, Rule
from sensor.native import suppress

NOON_NS = NOON_S * NS
RULES = [Rule(rule_id, "threat", "t", "n", "x") for rule_id in range(20)]


def matched(time_ns: int, *rule_ids: int, sport: int = 1, reverse: bool = False) -> Evidence:
    """Return evidence with matches of these rules, in either direction of a flow."""
    five_tuple = FiveTuple(6, b"aaaa", sport, b"bbbb", 80)
    if reverse:
        five_tuple = FiveTuple(6, b"bbbb", 80, b"aaaa", sport)
    matches = tuple(Match(RULES[rule_id], 0, 1) for rule_id in rule_ids)
    return item(time_ns=time_ns)._replace(five_tuple=five_tuple, matches=matches)


def admitted(suppressor: Suppressor, items: list[Evidence]) -> list[Evidence]:
    """Return the items that are admitted, recognised by their positions."""
    marked = [one._replace(wirelen=position) for position, one in enumerate(items)]
    block = suppressor.admit(block_of_objects(marked, RULES))
    return [items[position] for position in block.items["wirelen"].tolist()]


def test_limit_per_second() -> None:
    """Both directions of a flow share the limit per second of packet time; the rest is counted."""
    suppressor = Suppressor(3)
    flood = [matched(NOON_NS + i, 1, reverse=bool(i % 2)) for i in range(10)]
    assert admitted(suppressor, flood) == flood[:3]
    assert admitted(suppressor, [matched(NOON_NS + NS, 1)]) == [matched(NOON_NS + NS, 1)]
    assert suppressor.suppressed == 7
    assert suppressor.matches == {"threat": 7}


def test_other_rules_and_flows_are_kept() -> None:
    """A flood of one rule and flow does not suppress matches of other flows or rules."""
    suppressor = Suppressor(1)
    admitted(suppressor, [matched(NOON_NS, 1)])
    assert admitted(suppressor, [matched(NOON_NS, 1)]) == []
    others = [matched(NOON_NS, 1, sport=2), matched(NOON_NS, 1, 2)]
    assert admitted(suppressor, others) == others


def test_zero_keeps_all() -> None:
    """A limit of 0 admits everything."""
    flood = [matched(NOON_NS, 1)] * 5
    assert admitted(Suppressor(0), flood) == flood


def test_evidence_of_flows_is_kept() -> None:
    """Evidence without a match, kept because of its flow, is never suppressed."""
    suppressor = Suppressor(1)
    assert len(admitted(suppressor, [matched(NOON_NS)] * 5)) == 5


def test_seconds_out_of_order_are_counted_apart() -> None:
    """The limit applies to each second, even if rings of several CPUs deliver them interleaved."""
    suppressor = Suppressor(1)
    times = [NOON_NS + NS, NOON_NS, NOON_NS + NS, NOON_NS]
    assert len(admitted(suppressor, [matched(time_ns, 1) for time_ns in times])) == 2


@pytest.mark.parametrize("seed", range(4))
def test_same_as_a_simple_implementation(seed: int) -> None:
    """With any rules, flows and times, the same items are admitted as with dictionaries."""
    seeded = Random(seed)
    suppressor = Suppressor(2)
    seconds: dict[int, defaultdict[tuple[int, int], int]] = {}
    suppressed: Counter[int] = Counter()
    for start in range(0, 40, 2):
        items, expected = [], []
        for _ in range(200):
            second, sport = start + seeded.randrange(4), seeded.randrange(1, 4)
            rules = seeded.sample(range(12), seeded.choice([0, 1, 1, 2, 5]))
            items.append(matched(NOON_NS + second * NS, *rules, sport=sport, reverse=seeded.random() < 0.5))
            if second not in seconds:
                while len(seconds) >= 4:
                    del seconds[next(iter(seconds))]
                seconds[second] = defaultdict(int)
            below = [rule for rule in rules if seconds[second][rule, sport] < 2]
            for rule in below:
                seconds[second][rule, sport] += 1
            if below or not rules:
                expected.append(items[-1])
            else:
                suppressed.update(["items"], matches=len(rules))
        assert admitted(suppressor, items) == expected
    assert suppressor.suppressed == suppressed["items"] > 0
    assert suppressor.matches == {"threat": suppressed["matches"]}


def test_flood_among_many_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more flows than the table holds are all admitted, and a flood among them is still limited."""
    monkeypatch.setattr(suppress, "SLOTS", 1 << 10)
    suppressor = Suppressor(100)
    kept: Counter[int] = Counter()
    for batch in range(20):
        flows = [matched(NOON_NS, 1, sport=2 + 500 * batch + number) for number in range(500)]
        items = [one for flow in flows for one in (flow, matched(NOON_NS, 1, sport=1))]
        kept.update(one.five_tuple.sport == 1 for one in admitted(suppressor, items))
    assert kept[False] == 10_000
    assert 100 <= kept[True] < 200
    assert suppressor.suppressed == 20_000 - kept.total()


def test_frames_of_the_admitted_items() -> None:
    """The records of the items that are left follow each other."""
    items = [
        item(number, caplen=62 + number)._replace(matches=(Match(RULES[1], 0, 1),)) for number in range(9)
    ]
    block: EvidenceBlock = Suppressor(4).admit(block_of_objects(items))
    assert block.records.tobytes() == block_of_objects(items[:4]).records.tobytes()
    assert [bytes(block.frame(position)) for position in range(4)] == [one.frame for one in items[:4]]
