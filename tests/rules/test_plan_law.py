"""The law of the plan: the kernel passes on every packet that a rule matches.

Payloads are made from each rule's own expression, damaged, wrapped into HTTP and encoded. Each packet
that the matcher matches must pass, both by the prefixes of its rule alone and by the plan of all rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from commands import write_rules
from samples import packets, tricky_rules

from sensor import abi
from sensor.config.settings import BUNDLED_RULES
from sensor.model import Rule
from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, HttpReading
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_rules
from sensor.rules.prefilter.plan import Plan, demands
from sensor.rules.prefilter.prefix import word_of
from sensor.rules.prefilter.prefix_set import PrefixSet

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "fp-patterns"


def hidden(rules: Iterable[Rule], http: HttpReading, each: int) -> tuple[list[str], int, int]:
    """Return the matches that a plan hides, the number of payloads made, and the number that matched."""
    every = tuple(rules)
    matcher, needed = Matcher(every, http), demands(every, http)
    plan = Plan.of(needed)
    alone = {rule.rule_id: PrefixSet(prefixes) for rule, prefixes in needed}
    found, made, matched = [], 0, 0
    for payload, protocol, sport, dport in packets(every, http, each):
        matches = matcher.match(payload, protocol, sport, dport) if payload else ()
        made, matched = made + 1, matched + bool(matches)
        if matches and plan.judge(protocol, sport, dport, payload) != abi.Counter.SUBMITTED:
            found.append(f"plan: {protocol} {sport} {dport} {payload!r}")
        word = word_of(payload)
        found += [
            f"{rule.rule_id} {rule.regex}: {payload!r}"
            for rule in (match.rule for match in matches)
            if not alone[rule.rule_id].fits(word, len(payload))
        ]
    return found, made, matched


def test_no_match_of_our_own_rules_is_hidden() -> None:
    """The project's own rules, with the default definition of HTTP."""
    found, made, matched = hidden(load_rules(BUNDLED_RULES), RFC9110, 150)
    assert found == []
    assert made > 75_000
    assert matched > 0.4 * made


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="ly_probe's rules are not on this machine")
@pytest.mark.parametrize("http", [RFC9110, LY_PROBE], ids=["default", "ly_probe"])
def test_no_match_of_ly_probes_rules_is_hidden(http: HttpReading) -> None:
    """ly_probe's rules; some of them have neither port nor anchor."""
    found, made, matched = hidden(load_rules(REFERENCE, lenient=True), http, 100)
    assert found == []
    assert matched > 0.5 * made


def test_no_match_of_a_few_rules_is_hidden(tmp_path: Path) -> None:
    """A few rules, so that most protocols, ports and prefixes are ignored."""
    found, made, matched = hidden(load_rules(write_rules(tmp_path)), RFC9110, 500)
    assert found == []
    assert matched > 0.5 * made


@pytest.mark.parametrize("http", [RFC9110, LY_PROBE], ids=["default", "ly_probe"])
def test_no_match_of_a_tricky_rule_is_hidden(http: HttpReading) -> None:
    """Rules with optional parts, repeats, lookarounds and misplaced anchors, in each part of HTTP."""
    found, made, matched = hidden(tricky_rules(), http, 150)
    assert found == []
    assert matched > 0.3 * made
