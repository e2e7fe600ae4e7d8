"""The law of the plan: what a rule hits, the kernel lets through.

Payloads are made from each rule's own expression, damaged, wrapped into HTTP and encoded; whatever
the matcher finds in them has to pass: by what its rule alone asks for, and by the plan of all rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from commands import write_rules
from samples import packets, tricky_rules

from sensor import abi
from sensor.config.settings import OWN_RULES
from sensor.model import Rule
from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, HttpReading
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_rules
from sensor.rules.prefilter.plan import Plan, demands
from sensor.rules.prefilter.prefix import PrefixSet, word_of

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "fp-patterns"


def hidden(rules: Iterable[Rule], http: HttpReading, each: int) -> tuple[list[str], int, int]:
    """Every hit that a plan hides; and how many payloads were made, and how many hit."""
    every = tuple(rules)
    matcher, asked = Matcher(every, http), demands(every, http)
    plan = Plan.of(asked)
    alone = {rule.rule_id: PrefixSet(prefixes) for rule, prefixes in asked}
    found, made, hit = [], 0, 0
    for payload, protocol, sport, dport in packets(every, http, each):
        matches = matcher.match(payload, protocol, sport, dport) if payload else ()
        made, hit = made + 1, hit + bool(matches)
        if matches and plan.judge(protocol, sport, dport, payload) != abi.Counter.SUBMITTED:
            found.append(f"plan: {protocol} {sport} {dport} {payload!r}")
        word = word_of(payload)
        found += [
            f"{rule.rule_id} {rule.regex}: {payload!r}"
            for rule in (match.rule for match in matches)
            if not alone[rule.rule_id].fits(word, len(payload))
        ]
    return found, made, hit


def test_no_hit_of_our_own_rules_is_hidden() -> None:
    """Each of them, in the default reading of HTTP."""
    found, made, hit = hidden(load_rules(OWN_RULES), RFC9110, 150)
    assert found == []
    assert made > 75_000
    assert hit > 0.4 * made


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="ly_probe's rules are not on this machine")
@pytest.mark.parametrize("http", [RFC9110, LY_PROBE], ids=["default", "ly_probe"])
def test_no_hit_of_ly_probes_rules_is_hidden(http: HttpReading) -> None:
    """Rules without ports and anchors among them."""
    found, made, hit = hidden(load_rules(REFERENCE, lenient=True), http, 100)
    assert found == []
    assert hit > 0.5 * made


def test_no_hit_of_a_few_rules_is_hidden(tmp_path: Path) -> None:
    """Where most protocols, ports and beginnings are ignored."""
    found, made, hit = hidden(load_rules(write_rules(tmp_path)), RFC9110, 500)
    assert found == []
    assert hit > 0.5 * made


@pytest.mark.parametrize("http", [RFC9110, LY_PROBE], ids=["default", "ly_probe"])
def test_no_hit_of_a_tricky_rule_is_hidden(http: HttpReading) -> None:
    """Optional parts, repeats, lookarounds, anchors in odd places, in every part of HTTP."""
    found, made, hit = hidden(tricky_rules(), http, 150)
    assert found == []
    assert hit > 0.3 * made
