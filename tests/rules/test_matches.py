"""Matching a batch in C finds the same rules as searching each payload for each rule."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest

from sensor.errors import SensorError
from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine import budget
from sensor.rules.engine.expression import expression
from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, HttpReading
from sensor.rules.engine.matcher import Matcher, Payloads
from sensor.rules.engine.scan import SLICE
from sensor.rules.engine.witness import witness_payloads
from sensor.rules.files.load import load_rules
from tests.rules.naive import Naive
from tests.rules.samples import PROTOCOLS, Packet, damaged, payloads_of, wrapped
from tests.test_fp_pattern import HITS, MISSES, ORDINARY

ROOT = Path(__file__).parents[2]
DIRECTORIES = [ROOT / "fp-pattern", ROOT.parent / "shared" / "reference" / "fp-patterns"]
COSTLY = ROOT.parent / "shared" / "cases" / "costly_hits.bin"
BLANK = b"\r\n\r\n"
EACH = 4
"""Witness payloads tried per rule."""
MIXED = 1000
"""Random payloads tried per rule set."""
BATCH = 700


def found(matcher: Matcher, packets: list[Packet]) -> list[tuple[int, int]]:
    """Return the position of each payload and the id of each rule that matches it, found in one call."""
    matches = matcher.matches(*payloads_of(packets, matcher.http))
    assert (matches.payload.dtype, matches.rule.dtype) == (np.int64, np.uint32)
    pairs = list(zip(matches.payload.tolist(), matches.rule.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    return [(position, matcher.rules[rule].rule_id) for position, rule in pairs]


def expected(matcher: Matcher, packets: list[Packet]) -> list[tuple[int, int]]:
    """Return the same, found payload by payload and rule by rule."""
    naive = [_naive(rule, matcher.http) for rule in matcher.rules]
    return [
        (position, one.rule.rule_id)
        for position, packet in enumerate(packets)
        for one in naive
        if one.matches(*packet)
    ]


_naive = cache(Naive)


def compare(matcher: Matcher, packets: list[Packet]) -> int:
    """Compare both ways in batches, and return the number of matches."""
    count = 0
    for start in range(0, len(packets), BATCH):
        batch = packets[start : start + BATCH]
        pairs = found(matcher, batch)
        if pairs != expected(matcher, batch):
            for packet in batch:
                assert found(matcher, [packet]) == expected(matcher, [packet]), packet
        assert pairs == expected(matcher, batch)
        count += len(pairs)
    return count


def packet_for(rule: Rule, payload: bytes, rng: Random) -> Packet:
    """Return a packet with ports and a protocol with which the rule matches, most of the time."""
    ports = [rule.port if rng.random() < 0.9 else rng.randrange(65536), rng.randrange(65536)]
    rng.shuffle(ports)
    return payload, rule.protocol if rule.protocol and rng.random() < 0.9 else rng.choice(PROTOCOLS), *ports


def corpus() -> list[Packet]:
    """Return the packets of ``tests/corpus``, some of them too long for one slice, and a costly one."""
    packets = [
        (case.payload, case.protocol, case.sport, case.dport)
        for case in [case for _, case in HITS + MISSES] + ORDINARY
    ]
    packets += [(payload.ljust(SLICE + 1, b" "), *rest) for payload, *rest in packets[::50]]
    packets += [(b"GET /?x=" + b"%41+" * 3000 + payload, *rest) for payload, *rest in packets[::80]]
    if COSTLY.exists():
        packets += [(COSTLY.read_bytes(), protocol, 80, 5000) for protocol in (TCP, UDP, 1)]
    return packets


def witnesses(rules: tuple[Rule, ...], rng: Random, http: HttpReading) -> Iterator[Packet]:
    """Yield payloads with texts that each rule must match, where it looks for them and elsewhere."""
    for rule in rules:
        one = expression(rule.regex)
        texts = list(witness_payloads(one.tree, one.span_finder))
        for text in rng.sample(texts, min(EACH, len(texts))):
            yield packet_for(rule, wrapped(rule, text, http, rng), rng)


def mixed(rules: tuple[Rule, ...], rng: Random, http: HttpReading) -> Iterator[Packet]:
    """Yield random concatenations of witness texts, percent-encoded, with blank lines in odd places."""
    texts = [
        (rule, text)
        for rule in rules
        for text in list(witness_payloads(expression(rule.regex).tree, expression(rule.regex).span_finder))[
            : 3 * EACH : 3
        ]
    ]
    for _ in range(MIXED):
        chosen = rng.choices(texts, k=rng.randint(1, 4))
        pieces = [encoded(text, rng) for _, text in chosen]
        payload = rng.choice((b"", b"\r\n", BLANK, b"&", b"%0d%0a%0d%0a", b"%", b"+")).join(pieces)
        if rng.random() < 0.7:
            payload = rng.choice(http.beginnings) + payload
        if rng.random() < 0.3:
            at = rng.randrange(len(payload) + 1)
            payload = payload[:at] + rng.choice((BLANK, b"\r\n\r", b"%25%32", b"%2")) + payload[at:]
        if rng.random() < 0.2:
            payload = damaged(payload, rng)
        if rng.random() < 0.3:
            payload = payload[: rng.randrange(len(payload) + 1)]
        yield packet_for(chosen[0][0], payload, rng)


def encoded(text: bytes, rng: Random) -> bytes:
    """Return the text percent-encoded up to three times, in part or wholly."""
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        share = rng.choice((0.1, 0.5, 1.0))
        form = rng.choice((b"%%%02x", b"%%%02X"))
        text = b"".join(form % byte if rng.random() < share else bytes([byte]) for byte in text)
        if rng.random() < 0.3:
            text = text.replace(b"%20", b"+")
    return text


@pytest.mark.usefixtures("enough_time")
@pytest.mark.parametrize("http", [LY_PROBE, RFC9110], ids=["ly_probe", "rfc9110"])
@pytest.mark.parametrize("directory", DIRECTORIES, ids=["own", "reference"])
def test_a_batch_matches_as_its_payloads_do(directory: Path, http: HttpReading) -> None:
    """The corpus, witness texts of all rules, and mixtures of them match the same rules in both ways."""
    if not directory.is_dir():
        pytest.skip("these rules are not on this machine")
    rng = Random(13)
    matcher = Matcher(load_rules(directory), http)
    packets = [*corpus(), *witnesses(matcher.rules, rng, http), *mixed(matcher.rules, rng, http)]
    rng.shuffle(packets)
    assert compare(matcher, packets) > 3 * len(matcher.rules)


def rules_of(*regexes: str) -> list[Rule]:
    """Return rules with these regexes, numbered from 1."""
    return [Rule(number, "threat", "Type", "Name", regex) for number, regex in enumerate(regexes, start=1)]


def test_a_call_for_each_full_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the matches do not fit into one list, none is lost or doubled."""
    monkeypatch.setattr("sensor.native.batch_matcher.MOST_MATCHES", 7)
    matcher = Matcher(rules_of(*(f"w{number}(?:x|y)" for number in range(1, 6))))
    packets = [(b"w1x w2y w3x w4y w5x", TCP, 1, 2), (b"none", TCP, 1, 2), (b"w3y", TCP, 1, 2)] * 20
    assert compare(matcher, packets) == 120


@pytest.mark.parametrize("count", [63, 64, 65, 200])
def test_any_number_of_rules(count: int) -> None:
    """Rules are found whatever their number, each at its own position."""
    matcher = Matcher(rules_of(*(f"word{number:03};" for number in range(count))))
    packets = [(b"word%03d;" % number, TCP, 1, 2) for number in range(count)]
    packets.append((b"".join(payload for payload, *_ in packets)[:SLICE], TCP, 1, 2))
    packets.append((b"".join(payload for payload, *_ in packets), TCP, 1, 2))
    assert compare(matcher, packets) == 2 * count + packets[-2][0].count(b";") + count * (count > 256)


def test_no_rules_and_no_payloads() -> None:
    """Without rules nothing matches; an empty batch has no matches."""
    packets = [(b"GET / HTTP/1.1\r\n\r\n", TCP, 1, 2), (b"", TCP, 1, 2), (b"x" * 5000, UDP, 1, 2)]
    assert found(Matcher([]), packets) == []
    matcher = Matcher(rules_of("x"))
    assert found(matcher, packets) == [(2, 1)]
    nothing = np.empty(0, np.int64)
    assert len(matcher.matches(memoryview(b""), Payloads(*[nothing] * 6)).rule) == 0


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (2, 1), (0, 7), (1 << 40, (1 << 40) + 1)])
def test_a_payload_outside_the_buffer_is_refused(start: int, end: int) -> None:
    """Nothing is read outside the buffer, whatever the offsets; the matcher can be used afterwards."""
    matcher = Matcher(rules_of("abc"))
    buffer, payloads = payloads_of([(b"abc", TCP, 1, 2)], matcher.http)
    with pytest.raises(SensorError, match="payload 0 of a batch"):
        matcher.matches(buffer, payloads._replace(start=np.array([start]), end=np.array([end])))
    assert matcher.matches(buffer, payloads).rule.tolist() == [0]


def test_columns_of_different_lengths_are_refused() -> None:
    """A column that is too short is not read beyond its end."""
    matcher = Matcher(rules_of("abc"))
    buffer, payloads = payloads_of([(b"abc", TCP, 1, 2)] * 2, matcher.http)
    with pytest.raises(SensorError, match="differ in length"):
        matcher.matches(buffer, payloads._replace(sport=payloads.sport[:1]))


def test_a_spent_budget_ends_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matches found before the cut are kept, the cut is counted, and the next payload is searched anew."""
    monkeypatch.setattr(budget, "PAYLOAD_NS", 0)
    matcher = Matcher(rules_of("early", "late", "end$"))
    packets = [
        (b"early".ljust(3 * SLICE) + b"late end", TCP, 1, 2),
        (b"early".ljust(SLICE - 8) + b"late end", TCP, 1, 2),
    ]
    assert (found(matcher, packets), matcher.cut) == ([(0, 1), (1, 1), (1, 2), (1, 3)], 1)
    assert matcher.matches(*payloads_of(packets, matcher.http)).incomplete.tolist() == [True, False]


@pytest.mark.parametrize(
    ("payload", "parts"),
    [
        (b"GET /\r\n\r\nneedle", {"total", "body"}),
        (b"GET /needle\r\n\r\n", {"total", "head"}),
        (b"GET /needle\r\n\r", {"total", "head"}),
        (b"GET /%6eeedl%65\r\n\r\nx", {"total", "head"}),
        (b"GET /\r\n\r\n%256eee%25%364le", {"total", "body"}),
        (b"GET /%0d%0a%0d%0aneedle", {"total", "head"}),
        (b"GET /%250d%250a%250d%250a%256eeedle", {"total", "head"}),
        (b"GET /\r\n\r\n\r\n\r\nneedle", {"total", "body"}),
        (b"GET /%25256eeedle HTTP/1.1\r\n\r\n", set()),
        (b"GET /needl%6", set()),
        (b"GET /needl%", set()),
        (b"GET /needl%6\r\n\r\n5", set()),
        (b"GET /\r\n\r\nneedl%65", {"total", "body"}),
    ],
)
@pytest.mark.parametrize("padding", [0, 3 * SLICE])
def test_parts_decoded(payload: bytes, parts: set[str], padding: int) -> None:
    """The parts are those of the payload as it is sent, and each is decoded once and twice."""
    names = ["total", "head", "body"]
    rules = [
        Rule(number, "threat", "Type", "Name", "needle", is_http=True, part=part, decode="url")  # type: ignore[arg-type]
        for number, part in enumerate(names)
    ]
    matcher = Matcher(rules)
    packets = [(payload[:5] + b"." * padding + payload[5:], TCP, 1, 2)]
    assert {names[number] for _, number in found(matcher, packets)} == parts
    compare(matcher, packets)
