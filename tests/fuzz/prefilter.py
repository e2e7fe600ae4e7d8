"""The plan: no packet that a rule matches is ignored, whether the rule is alone or among others."""

from __future__ import annotations

from sensor import abi
from sensor.rules.engine.http_payload import LY_PROBE, RFC9110
from sensor.rules.engine.matcher import Matcher
from sensor.rules.prefilter.plan import Plan, demands
from tests.fuzz.random_rules import random_packets, random_rules
from tests.fuzz.rounds import Round
from tests.rules.samples import payloads_of

RULES = 50
PACKETS = 4000


def fuzz(one: Round) -> None:
    """Judge the packets that the rules of a random set match."""
    http = one.rng.choice((RFC9110, RFC9110, LY_PROBE))
    rules = random_rules(one.rng, RULES)
    packets = random_packets(rules, http, one.rng, PACKETS)
    matcher = Matcher([each.rule for each in rules], http)
    matches = matcher.matches(*payloads_of(packets, http))
    needs = demands(matcher.rules, http)
    together, alone = Plan.of(needs), [Plan.of([need]) for need in needs]
    for position, rule in zip(matches.payload.tolist(), matches.rule.tolist(), strict=True):
        payload, protocol, *ports = packets[position]
        for plan, what in ((together, "the plan of all rules"), (alone[rule], "the plan of the rule")):
            one.comparisons += 1
            if plan.judge(protocol, *ports, payload) != abi.Counter.SUBMITTED:
                one.fault(
                    f"{what} hides a match: {matcher.rules[rule]}\nin {protocol} {ports}\n{payload[:100]!r}",
                    regex_txt=matcher.rules[rule].regex,
                    payload_bin=payload,
                )
