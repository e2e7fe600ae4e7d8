"""Matches located from a payload and a rule alone have the spans and versions that the matcher gives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from sensor.decode import decode
from sensor.errors import SensorError
from sensor.files.capture_file import CaptureFile
from sensor.model import Match, Rule
from sensor.protocols import TCP
from sensor.rules.engine import scan, spans
from sensor.rules.engine.expression import span_finder
from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, HttpReading
from sensor.rules.engine.locate import locate, locate_each
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.scan import SLICE, Budget
from sensor.rules.engine.spans import WORK
from sensor.rules.files.load import load_rules
from tests.rules import pcre_oracle
from tests.rules.pcre_oracle import MatchLimitError, Pcre
from tests.rules.test_matches import DIRECTORIES, Packet, corpus, mixed, witnesses

SHARED = Path(__file__).parents[3] / "shared"
NAMES = ["own", "reference"]


def rule(regex: str, **fields: object) -> Rule:
    """Return a rule with this regex."""
    return Rule(1, "service", "Type", "Name", regex, **fields)  # type: ignore[arg-type]


def check(matcher: Matcher, packets: Iterator[Packet]) -> int:
    """Compare every match with the one that is located, and return the number of matches."""
    count = 0
    for packet in packets:
        matches = matcher.match(*packet)
        located = list(locate_each([match.rule for match in matches], packet[0], matcher.http))
        for match, other in zip(matches, located, strict=True):
            if match != other:
                assert _is_exact(packet[0], other) and not _is_affordable(packet[0], match.rule), packet
        count += len(matches)
    return count


def _is_affordable(payload: bytes, rule: Rule) -> bool:
    """Return True if a worker searches the whole payload, not only the surroundings of a match."""
    return len(payload) <= WORK // span_finder(rule.regex)._size


def _is_exact(payload: bytes, match: Match) -> bool:
    """Return True if PCRE finds the same span in the payload; a decoded one is not looked at."""
    if not pcre_oracle.available() or (match.rule.is_http and match.rule.part != "total"):
        return True
    try:
        found = Pcre(match.rule.regex.encode()).spans(payload)
    except MatchLimitError:
        return True
    return found is None or (found[1] or found[0]) == (match.start, match.end)


@pytest.mark.parametrize("http", [LY_PROBE, RFC9110], ids=["ly_probe", "rfc9110"])
@pytest.mark.parametrize("directory", DIRECTORIES, ids=NAMES)
def test_spans_and_versions_are_those_of_the_matcher(
    directory: Path, http: HttpReading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corpus, witness texts of all rules, and mixtures of them give the same matches in both ways."""
    if not directory.is_dir():
        pytest.skip("these rules are not on this machine")
    monkeypatch.setattr(scan, "BUDGET_NS", 10**12)
    rng, matcher = Random(14), Matcher(load_rules(directory), http)
    packets = [*corpus(), *witnesses(matcher.rules, rng, http), *mixed(matcher.rules, rng, http)]
    assert check(matcher, iter(packets)) > 3 * len(matcher.rules)


@pytest.mark.parametrize("directory", DIRECTORIES, ids=NAMES)
@pytest.mark.skipif(not SHARED.is_dir(), reason="the captures are not on this machine")
def test_captures(directory: Path) -> None:
    """Every packet of the captures gives the same matches in both ways."""
    if not directory.is_dir():
        pytest.skip("these rules are not on this machine")
    matcher = Matcher(load_rules(directory))
    assert sum(check(matcher, _packets(path)) for path in sorted(SHARED.rglob("*.pcap*"))) > 0


def _packets(path: Path) -> Iterator[Packet]:
    """Yield the packets with payload of a capture file, up to where it can no longer be read."""
    try:
        with CaptureFile(path) as file:
            for frames in file.batches():
                packets = decode(frames)
                for at in np.flatnonzero(packets.payload_end > packets.payload_start).tolist():
                    payload = bytes(frames.buffer[packets.payload_start[at] : packets.payload_end[at]])
                    yield (
                        payload,
                        *(int(column[at]) for column in (packets.protocol, packets.sport, packets.dport)),
                    )
    except SensorError:
        return


def test_the_first_text_in_which_a_rule_matches_counts() -> None:
    """The part as it is comes before the part decoded once, and that before the part decoded twice."""
    one = rule(r"id=(\w+)!", is_http=True, part="body", decode="url")
    head = b"POST /id=0! HTTP/1.1\r\n\r\n"
    for body, expected in [
        (b"id=a%21 id=b! id%3dc!", (b"b", "b")),
        (b"id%253Da! id=%62! id%3dc!", (b"%62", "b")),
        (b"id=%2561!", (b"%2561", "a")),
    ]:
        match = locate(one, head + body, RFC9110)
        assert ((head + body)[match.start : match.end], match.version) == expected
        assert (match,) == Matcher([one]).match(head + body, TCP, 80, 5000)


@pytest.mark.parametrize(
    ("one", "payload"),
    [
        (rule("absent"), b"a payload"),
        (rule("needle", is_http=True), b"needle, but not HTTP"),
        (rule("needle", is_http=True, part="body"), b"GET /needle HTTP/1.1\r\n\r\n"),
        (rule("needle", is_http=True), b"GET /n%65edle HTTP/1.1\r\n\r\n"),
        (rule("needle", is_http=True, decode="url"), b"GET /n%252565edle HTTP/1.1\r\n\r\n"),
        (rule("(", version="1"), b"a payload"),
        (rule("\ud800"), b"a payload"),
        (rule("absent", version="1"), b""),
    ],
)
def test_a_match_that_cannot_be_found_has_an_unknown_span(one: Rule, payload: bytes) -> None:
    """The span is then the whole payload, and the version is the rule's own."""
    assert locate(one, payload, RFC9110) == Match(one, 0, len(payload), one.version)


def test_a_spent_budget_leaves_spans_unknown() -> None:
    """Matches that could not be searched for in the caller's time are still reported."""
    rules, payload = [rule("needle"), rule("edl")], b"a needle"
    first, second = locate_each(rules, payload, RFC9110, Budget(0))
    assert ((first.start, first.end), (second.start, second.end)) == ((2, 8), (0, 8))


@pytest.mark.parametrize("padding", [0, SLICE - 4, 20_000, 65_000])
def test_long_payloads_are_searched_in_windows(padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a rule cannot afford to search a whole text, a match is still found in any part of it."""
    payload = b"." * padding + b"needle=(42)" + b"." * (65_535 - 11 - padding)
    whole = locate(rule(r"needle=\((\d+)\)"), payload, RFC9110)
    monkeypatch.setattr(spans, "COLD_WORK", 50_000)
    match = locate(rule(r"needle=\((\d+)\)"), payload, RFC9110)
    assert match == whole
    assert (match.start, match.end, match.version) == (padding + 8, padding + 10, "42")


def test_the_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the work for one match is spent, its span is unknown."""
    monkeypatch.setattr(spans, "COLD_WORK", 50_000)
    monkeypatch.setattr(spans, "MOST_COLD_WORK", 100_000)
    payload = b"." * 60_000 + b"needle"
    assert locate(rule("needle"), payload, RFC9110) == Match(rule("needle"), 0, len(payload), None)
