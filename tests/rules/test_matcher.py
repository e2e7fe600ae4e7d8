"""Which rules match a payload, where, and which version they name."""

from __future__ import annotations

import pytest

from sensor.model import Rule
from sensor.rules.engine.matcher import Matcher

TCP, UDP, ICMP = 6, 17, 1

RESPONSE = b"HTTP/1.1 200 OK\r\nServer: nginx/1.18.0\r\n\r\nbody text"


def rule(regex: str, rule_id: int = 1, **fields: object) -> Rule:
    """Return a rule with this regex."""
    return Rule(rule_id, "service", "Type", "Name", regex, **fields)  # type: ignore[arg-type]


def matching(
    *rules: Rule, payload: bytes = RESPONSE, protocol: int = TCP, sport: int = 80, dport: int = 5000
) -> list[int]:
    """Return the ids of the rules that match."""
    return [match.rule.rule_id for match in Matcher(rules).match(payload, protocol, sport, dport)]


def test_group_1_is_the_span_and_the_version() -> None:
    """If group 1 took part in the match, the offsets are its own and its text is the version."""
    [match] = Matcher([rule(r"server: nginx(?:/([\d.]+))?")]).match(RESPONSE, TCP, 80, 5000)
    assert (RESPONSE[match.start : match.end], match.version) == (b"1.18.0", "1.18.0")


def test_without_group_1_the_whole_match_is_the_span() -> None:
    """If group 1 took no part, the offsets are those of the whole match, and there is no version."""
    [match] = Matcher([rule(r"server: nginx(?:x([\d.]+))?")]).match(RESPONSE, TCP, 80, 5000)
    assert (RESPONSE[match.start : match.end], match.version) == (b"Server: nginx", None)


def test_fixed_version_wins_over_group_1() -> None:
    """A rule's own version is reported, but still with the offsets of group 1."""
    [match] = Matcher([rule(r"nginx/([\d.]+)", version="old")]).match(RESPONSE, TCP, 80, 5000)
    assert (RESPONSE[match.start : match.end], match.version) == (b"1.18.0", "old")


@pytest.mark.parametrize(("port", "expected"), [(0, [1]), (80, [1]), (5000, [1]), (81, [])])
def test_port_is_either_side(port: int, expected: list[int]) -> None:
    """A rule's port matches the source or destination port; 0 matches any."""
    assert matching(rule("nginx", port=port)) == expected


@pytest.mark.parametrize(
    ("protocol", "packet", "expected"),
    [(None, TCP, [1]), (None, UDP, [1]), (None, ICMP, [1]), (TCP, TCP, [1]), (TCP, UDP, []), (UDP, ICMP, [])],
)
def test_protocol(protocol: int | None, packet: int, expected: list[int]) -> None:
    """A rule with a protocol matches only that protocol; without one it matches any transport."""
    assert matching(rule("nginx", protocol=protocol), protocol=packet) == expected


@pytest.mark.parametrize(
    ("regex", "part", "found"),
    [
        (r"^b\w", "body", b"bo"),
        (r"t$", "body", b"t"),
        (r"^HTTP", "body", None),
        (r"0$", "head", b"0"),
        (r"0\z", "head", b"0"),
        (r"(?m)0$", "head", b"0"),
        (r"^H", "head", b"H"),
        (r"t$", "head", None),
        (r"^b", "total", None),
        (r"t$", "total", b"t"),
        (r"0\b", "head", b"0"),
        (r"\bb", "body", b"b"),
    ],
)
def test_anchors_apply_to_the_part(regex: str, part: str, found: bytes | None) -> None:
    """Anchors are the start and end of the part that the rule sees."""
    matches = Matcher([rule(regex, is_http=True, part=part)]).match(RESPONSE, TCP, 80, 5000)
    assert [RESPONSE[match.start : match.end] for match in matches] == ([found] if found else [])


def test_parts_of_http() -> None:
    """Rules for head, body and total see only their part, and report offsets in the payload."""
    rules = [
        rule("^HTTP[^z]*(nginx)", 1, is_http=True, part="head"),
        rule("body", 2, is_http=True, part="head"),
        rule("^body (text)$", 3, is_http=True, part="body"),
        rule("nginx", 4, is_http=True, part="body"),
        rule("nginx[^z]*(body)", 5, is_http=True),
    ]
    found = Matcher(rules).match(RESPONSE, TCP, 80, 5000)
    assert [(m.rule.rule_id, RESPONSE[m.start : m.end]) for m in found] == [
        (1, b"nginx"),
        (3, b"text"),
        (5, b"body"),
    ]


def test_http_rules_see_only_http() -> None:
    """An HTTP rule does not match a payload that does not look like HTTP."""
    assert matching(rule("nginx", is_http=True), payload=b"220 nginx is no mail server") == []


def test_url_decoded_text_reports_raw_offsets() -> None:
    """A rule with decode sees the text decoded once and twice, and reports offsets in the raw bytes."""
    for encoded in (b"union%20select", b"union+select", b"union select", b"%75nion%2520select"):
        payload = b"GET /?id=1%20" + encoded + b" HTTP/1.1\r\n\r\n"
        [match] = Matcher([rule(r"\bunion select", is_http=True, decode="url")]).match(payload, TCP, 80, 5000)
        assert payload[match.start : match.end] == encoded
