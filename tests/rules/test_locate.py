"""Matches have the places and versions that PCRE gives them, or none; they are never guessed."""

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
from sensor.rules.engine import spans
from sensor.rules.engine.budget import Budget
from sensor.rules.engine.expression import span_finder
from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, HttpReading
from sensor.rules.engine.locate import locate, locate_each
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.scan import SLICE
from sensor.rules.files.load import load_rules
from tests.rules import pcre_oracle
from tests.rules.pcre_located import pcre_match
from tests.rules.pcre_oracle import MatchLimitError
from tests.rules.samples import Packet
from tests.rules.test_matches import COSTLY, DIRECTORIES, corpus, mixed, witnesses

SHARED = Path(__file__).parents[3] / "shared"
NAMES = ["own", "reference"]
needs_pcre = pytest.mark.skipif(not pcre_oracle.available(), reason="libpcre3 is not installed")


def rule(regex: str, **fields: object) -> Rule:
    """Return a rule with this regex."""
    return Rule(1, "service", "Type", "Name", regex, **fields)  # type: ignore[arg-type]


def check(matcher: Matcher, packets: Iterator[Packet]) -> int:
    """Compare every match with that of PCRE, and return the number of matches compared."""
    count = 0
    for packet in packets:
        for match in matcher.match(*packet):
            try:
                expected = pcre_match(match.rule, packet[0], matcher.http)
            except MatchLimitError:
                continue
            assert match == expected, packet
            count += 1
    return count


@pytest.fixture(scope="module")
def own() -> Matcher:
    """Return the matcher of the rules that come with the sensor."""
    return Matcher(load_rules(DIRECTORIES[0]))


@needs_pcre
@pytest.mark.usefixtures("enough_time")
@pytest.mark.parametrize("http", [LY_PROBE, RFC9110], ids=["ly_probe", "rfc9110"])
@pytest.mark.parametrize("directory", DIRECTORIES, ids=NAMES)
def test_places_and_versions_are_those_of_pcre(directory: Path, http: HttpReading) -> None:
    """The corpus, witness texts of all rules, and mixtures of them have the matches that PCRE finds."""
    if not directory.is_dir():
        pytest.skip("these rules are not on this machine")
    rng, matcher = Random(14), Matcher(load_rules(directory), http)
    packets = [*corpus(), *witnesses(matcher.rules, rng, http), *mixed(matcher.rules, rng, http)]
    assert check(matcher, iter(packets)) > 3 * len(matcher.rules)


@needs_pcre
@pytest.mark.usefixtures("enough_time")
def test_places_in_payloads_of_usual_length(own: Matcher) -> None:
    """A long payload changes no place, however large the rule is."""
    rng = Random(15)
    packets = (
        (payload.ljust(9000 if number % 8 == 0 else 1460, b"."), *rest)
        for number, (payload, *rest) in enumerate(witnesses(own.rules, rng, RFC9110))
        if number % 2 == 0
    )
    assert check(own, packets) > len(own.rules)


@needs_pcre
@pytest.mark.usefixtures("enough_time")
@pytest.mark.skipif(not COSTLY.exists(), reason="the payload is not on this machine")
def test_a_payload_that_many_rules_match(own: Matcher) -> None:
    """Each of its 88 matches has its place."""
    assert check(own, iter([(COSTLY.read_bytes(), TCP, 80, 5000)])) == 88


@needs_pcre
def test_the_banner_of_a_server_is_whole() -> None:
    """Group 1 has all of its bytes in a response of usual length, also if its rule is large."""
    banner = rule(r"Server: ([^\r\n]{1,255})")
    payload = b"HTTP/1.1 200 OK\r\nServer: " + b"s" * 200 + b"\r\nX: " + b"x" * 1000 + b"\r\n\r\n"
    [match] = Matcher([banner]).match(payload, TCP, 80, 5000)
    assert match == pcre_match(banner, payload, RFC9110) == Match(banner, 25, 225, "s" * 200)


@needs_pcre
@pytest.mark.parametrize("directory", DIRECTORIES, ids=NAMES)
@pytest.mark.skipif(not SHARED.is_dir(), reason="the captures are not on this machine")
def test_captures(directory: Path) -> None:
    """Every match in the captures is the one that PCRE finds."""
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
    """The version is then the rule's own."""
    assert locate(one, payload, RFC9110) == Match(one, None, None, one.version)


def test_a_spent_budget_leaves_spans_unknown() -> None:
    """Matches that could not be searched for in the caller's time are still reported."""
    rules, payload = [rule("needle"), rule("edl", version="1")], b"a needle"
    assert [match[1:] for match in locate_each(rules, payload, RFC9110, Budget(-1))] == [
        (None, None, None),
        (None, None, "1"),
    ]


WINDOWED = [
    (r"needle=\((\d{1,9})\)", b"needle=(42)"),
    (r"\bneedle\b", b"needle"),
    (r"(?<![-.])needle(?!s)", b" needle"),
    (r"n(?:eedle|eedles and more)", b"needles and more"),
    (r"(?m)^needle$", b"\nneedle\n"),
]
"""Expressions with a limit on the length of their matches, and a text with a match."""


@needs_pcre
@pytest.mark.parametrize(("regex", "text"), WINDOWED)
@pytest.mark.parametrize("padding", [0, SLICE - 4, 20_000, 65_000])
def test_long_payloads_are_searched_in_windows(
    regex: str, text: bytes, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a search of the whole text would cost too much, a match has the same place, wherever it is."""
    monkeypatch.setattr(spans, "COLD_WORK", 30_000)
    payload = (b"." * padding + text).ljust(65_500, b".")
    one = rule(regex)
    assert locate(one, payload, RFC9110) == pcre_match(one, payload, RFC9110)
    assert locate(one, payload, RFC9110).start is not None


@needs_pcre
@pytest.mark.parametrize(("regex", "text"), WINDOWED)
def test_windows_invent_and_hide_nothing(regex: str, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever part of the text a window ends at, the match is the one that PCRE finds."""
    one = rule(regex)
    size = next(number for number in range(1, 100) if span_finder(regex)._fits(10**6, number))
    rng = Random(regex)
    for _ in range(400):
        monkeypatch.setattr(spans, "COLD_WORK", span_finder(regex)._size * rng.randint(size, size + 20))
        pieces = rng.choices((text, text[:-1], text[1:], b"s", b" ", b"-", b"\n", b"x"), k=rng.randint(1, 30))
        payload = b"".join(pieces)
        expected = pcre_match(one, payload, RFC9110) or Match(one, None, None)
        assert locate(one, payload, RFC9110) == expected, payload


@pytest.mark.parametrize("regex", ["needle.*", "(?:ab)+needle", "x?y{3,}needle|needle"])
def test_a_match_without_a_limit_is_not_searched_in_windows(
    regex: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window might end inside it, so its place is unknown in a text that is too long for one search."""
    one, payload = rule(regex), b"." * 20_000 + b"yyyabneedle" + b"." * 20_000
    assert locate(one, payload, RFC9110).start is not None
    monkeypatch.setattr(spans, "COLD_WORK", 30_000)
    assert locate(one, payload, RFC9110) == Match(one, None, None)


def test_an_unknown_place_in_the_raw_text_is_not_looked_for_in_the_decoded_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first text with a match counts, and it may be the one that could not be searched."""
    one = rule("needle.*", is_http=True, decode="url")
    payload = b"GET /" + b"%2e" * 1000 + b"needle HTTP/1.1\r\n\r\n"
    monkeypatch.setattr(spans, "COLD_WORK", span_finder(one.regex)._size * 2000)
    assert locate(one, payload, RFC9110) == Match(one, None, None)
