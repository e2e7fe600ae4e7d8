"""Explanations why a rule does not match, compared with what the matcher does."""

from __future__ import annotations

from itertools import product

import pytest

from sensor.model import Rule
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.profile import PROFILES, Profile
from sensor.rules.obstacles import Specimen, obstacle

TCP, UDP, ICMP = 6, 17, 1
PAYLOADS = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody",
    b"PUT /%41 HTTP/1.1\r\nHost: a",
    b"HTTP/1.1 200 OK\r\n\r\n%41",
    b"GET / HTTP",
    b"no HTTP\r\n\r\nat all",
    b"\r\n\r\n",
)


def rules() -> list[Rule]:
    """Return a rule per combination of conditions, with a regex that matches any text."""
    conditions = product((None, TCP, UDP), (0, 80), (False, True), ("head", "body", "total"), (None, "url"))
    return [
        Rule(rule_id, "threat", "Type", "Name", r"[\x00-\xff]", protocol, port, is_http, part, decode)
        for rule_id, (protocol, port, is_http, part, decode) in enumerate(conditions, 1)
    ]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_obstacles_agree_with_the_matcher(profile: Profile) -> None:
    """A rule that matches any text matches exactly the packets for which it has no obstacle."""
    everything = rules()
    matcher = Matcher(everything, profile.http)
    for payload, protocol, (sport, dport) in product(
        PAYLOADS, (TCP, UDP, ICMP), ((80, 5000), (5000, 80), (5000, 6000), (0, 0))
    ):
        specimen = Specimen(payload, protocol, sport, dport)
        matching = {match.rule.rule_id for match in matcher.match(*specimen)}
        named = {rule.rule_id: obstacle(rule, specimen, profile) for rule in everything}
        assert matching == {rule_id for rule_id, failed in named.items() if failed is None}
