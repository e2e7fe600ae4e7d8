"""Rules are proven on witness texts before use; rules that the engine misses are still found."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hyperscan
import numpy as np
import pytest

from sensor.model import Rule
from sensor.native.batch_matcher import Databases
from sensor.native.witness_scanner import WitnessScanner
from sensor.rules.compilation import rule_compiler
from sensor.rules.engine import budget, scan
from sensor.rules.engine.expression import expression
from sensor.rules.engine.http_payload import RFC9110, head_end
from sensor.rules.engine.matcher import MISSED_AT_ONCE, Matcher, Payloads
from sensor.rules.engine.proof import PATIENCE_NS, missed
from sensor.rules.engine.scan import SLICE
from sensor.rules.engine.witness import LONGEST, MOST, OFFSETS, witness_payloads, witness_texts
from sensor.rules.files.load import load_rules
from sensor.rules.ready import make_ready
from tests.rules.incomplete_engine import compile_incompletely
from tests.rules.test_matches import found as found_in_batch
from tests.rules.test_matches import payloads_of
from tests.rules.test_scan import STALLING, check_cost

PROGRAM = Path(__file__).with_name("incomplete_engine.py")
TCP = 6
BLANK = b"\r\n\r\n"
COOKIE = r"(?:['\"=]\s{0,2}\+\s{0,2}|(?:encodeuricomponent|btoa)\()document\.cookie"
"""Vectorscan 5.4.12 misses its second branch after 13 or more bytes."""

KINDS: dict[str, tuple[dict[str, object], bytes]] = {
    "plain": ({}, b"%s"),
    "total": ({"is_http": True}, b"GET /?%s HTTP/1.1" + BLANK),
    "head": ({"is_http": True, "part": "head"}, b"GET /?%s HTTP/1.1" + BLANK),
    "body": ({"is_http": True, "part": "body"}, b"POST / HTTP/1.1" + BLANK + b"%s"),
    "decoded": ({"is_http": True, "part": "body", "decode": "url"}, b"POST / HTTP/1.1" + BLANK + b"%s"),
}
"""By the part that a rule looks at: its fields, and a payload around the text it looks for."""


def rule(regex: str, rule_id: int = 1, **fields: object) -> Rule:
    """Return a rule with this regex."""
    return Rule(rule_id, "threat", "Type", "Name", regex, **fields)  # type: ignore[arg-type]


def found(matcher: Matcher, payload: bytes) -> list[int]:
    """Return the ids of the rules that match."""
    return [match.rule.rule_id for match in matcher.match(payload, TCP, 80, 5000)]


@pytest.fixture
def incomplete_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave expressions that contain "42" out of Hyperscan's databases."""
    monkeypatch.setattr(scan, "_compile", compile_incompletely)
    monkeypatch.setattr(rule_compiler, "COMMAND", [sys.executable, str(PROGRAM)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_match_is_found_after_any_number_of_bytes(kind: str) -> None:
    """An expression that a release of Vectorscan misses after 13 bytes is found at every offset."""
    fields, around = KINDS[kind]
    text = b"btoa%28document%2Ecookie))" if kind == "decoded" else b"btoa(document.cookie))"
    matcher = Matcher([rule(COOKIE, **fields)])
    assert [n for n in range(201) if not found(matcher, around % (b"x" * n + text))] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filler", [0, 1, 64, SLICE, 30 * SLICE])
@pytest.mark.usefixtures("incomplete_engine")
def test_rules_that_the_engine_misses_are_found(kind: str, filler: int) -> None:
    """A rule that the databases miss still matches, in every part; other rules are not affected."""
    fields, around = KINDS[kind]
    text = b"needle%2042 honest" if kind == "decoded" else b"needle 42 honest"
    matcher = Matcher([rule("needle (42)", 1, **fields), rule("honest", 2, **fields)])
    payload = around % (b"." * filler + text)
    other = payload.replace(b"42", b"43")
    assert found(matcher, payload) == [1, 2]
    assert found(matcher, other) == [2]
    batch = [(one, TCP, 80, 5000) for one in (b"", payload, other, payload)]
    assert found_in_batch(matcher, batch) == [(1, 1), (1, 2), (2, 2), (3, 1), (3, 2)]
    assert [one.rule_id for one in matcher.missed] == [1]


@pytest.mark.usefixtures("incomplete_engine")
@pytest.mark.parametrize("stop_ns", [0, 1])
def test_rules_that_the_engine_misses_in_many_payloads(stop_ns: int) -> None:
    """The clock is looked at after some payloads; the rest is matched by the next call."""
    matcher = Matcher([rule("needle (42)", 1), rule("honest", 2)])
    texts = [b"needle 42", b"honest", b"neither"] * MISSED_AT_ONCE
    buffer, payloads = payloads_of([(text, TCP, 80, 5000) for text in texts], matcher.http)
    seen, calls, done = [], 0, 0
    while done < len(texts):
        matches = matcher.matches(buffer, payloads.select(slice(done, None)), stop_ns)
        seen += zip((matches.payload + done).tolist(), matches.rule.tolist(), strict=True)
        done, calls = done + len(matches.incomplete), calls + 1
    assert seen == [(number, number % 3) for number in range(len(texts)) if number % 3 < 2]
    assert calls == (3 if stop_ns else 1)


@pytest.mark.usefixtures("incomplete_engine")
def test_a_missed_rule_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names it once at each start, whether rules were compiled or read from the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one = {"type": "t", "name": "n", "regex": "needle 42"}
    rules = {"4711": one, "4712": {**one, "regex": "honest"}}
    (tmp_path / "threat.json").write_text(json.dumps({"threat": {"rules": rules}}))
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            make_ready(tmp_path, RFC9110, lenient=False)
        assert caplog.messages == ["Hyperscan misses rule 4711; RE2 decides it instead"]
        caplog.clear()


@pytest.mark.parametrize(
    ("find", "expected"),
    [
        (lambda _: True, []),
        (lambda _: False, [0]),
        (lambda text: text.find(b"btoa") < 13, [0]),
        (lambda text: b"BTOA" not in text, [0]),
        (lambda text: len(text) <= SLICE, [0]),
        (lambda text: len(text) % 16 != 5, [0]),
    ],
)
def test_a_miss_is_noticed(find: Callable[[bytes], bool], expected: list[int]) -> None:
    """The engine may miss a rule always, at some offsets, in one letter case or in long texts."""
    finders = [lambda _texts, _patience_ns: True, lambda texts, _patience_ns: all(map(find, texts))]
    assert missed([expression(COOKIE)], {0: finders}) == expected


def test_trials_end_when_their_time_is_over() -> None:
    """Each database is tried on at least one text; the time that is left is shared by all that wait."""
    asked: list[int] = []

    def find(texts: Sequence[bytes], patience_ns: int) -> bool:
        asked.append(patience_ns)
        return bool(texts)

    assert missed([expression("needle")] * 4, {number: [find, find] for number in range(4)}) == []
    assert asked[0] == PATIENCE_NS // 8
    assert asked == sorted(asked)
    whole, sliced = (scan._compile(mode, [(7, expression("needle").tree)]) for mode in (1, 2))
    scanner = WitnessScanner(Databases(hyperscan.dumpb(whole), hyperscan.dumpb(sliced)), SLICE)
    texts = [b"a needle", b"nothing"]
    assert scanner.finds(7, 0xFF, texts, 0)
    assert not scanner.finds(7, 0xFF, texts, 10**12)
    assert not scanner.finds(6, 0xFF, texts, 10**12)
    assert scanner.finds(3, 3, texts[:1], 10**12)
    assert not scanner.finds(7, 0xFF, [b"." * SLICE + b"nothing"], 0)
    assert scanner.finds(7, 0xFF, [b"." * (SLICE - 3) + b"needle"], 0)


def test_a_rule_without_a_witness_text_is_not_trusted() -> None:
    """If the rule matches none of the texts that are tried, nothing is proven."""
    unproven = expression("|".join([rf"x{number}\b_" for number in range(100)]) + "|zz")
    assert not list(witness_payloads(unproven.tree, unproven.span_finder))
    assert missed([unproven], {0: [lambda _texts, _patience_ns: True]}) == [0]


@pytest.mark.usefixtures("incomplete_engine")
def test_a_spent_budget_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that RE2 could not search for are counted as a cut."""
    matcher = Matcher([rule("needle 42", 1), rule("other 42", 2)])
    monkeypatch.setattr(budget, "PAYLOAD_NS", -1)
    assert (found(matcher, b"other 42"), matcher.cut) == ([], 1)


def test_no_payload_stalls_rules_that_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expressions made to stall engines take bounded time in RE2 as well."""
    monkeypatch.setattr(scan, "_compile", lambda _mode, _trees: None)
    matcher = Matcher([rule(regex, number) for number, regex in enumerate(STALLING, start=1)])
    assert len(matcher.missed) == len(STALLING)
    check_cost(matcher)


@pytest.mark.parametrize(
    ("regex", "among"),
    [
        ("ab|cd|ef", {b"ab", b"CD", b"ef", b"EF"}),
        ("a{2,3}", {b"aa", b"AAA"}),
        ("a*b", {b"b", b"ab", b"aaab"}),
        (r"(\d)x?", {b"0", b"9x", b"0x"}),
    ],
)
def test_texts_cover_an_expression(regex: str, among: set[bytes]) -> None:
    """Texts cover every branch, both cases, and repeats at their least and above."""
    assert among <= set(witness_texts(expression(regex).tree)) | {
        text.lower() for text in witness_texts(expression(regex).tree)
    }


def test_offsets_cover_a_vector() -> None:
    """An expression that can match anywhere is tried after 0 to 64 bytes, and in a later slice."""
    one = expression("needle")
    offsets = {text.lower().find(b"needle") for text in witness_payloads(one.tree, one.span_finder)}
    assert offsets >= set(range(OFFSETS))
    assert any(offset < SLICE < offset + 6 for offset in offsets)
    assert max(offsets) >= SLICE


@pytest.fixture(scope="module")
def own() -> Matcher:
    """Return the matcher of the rules that come with the sensor."""
    return Matcher(load_rules(Path(__file__).parents[2] / "fp-pattern"))


def test_no_own_rule_is_missed(own: Matcher) -> None:
    """The installed engine finds each of the project's own rules."""
    assert own.missed == ()


@pytest.mark.usefixtures("enough_time")
def test_own_rules_are_found_in_all_their_witness_texts(own: Matcher) -> None:
    """Each witness text of a rule gives a match, in the part of a packet that the rule looks at."""
    for one in own.rules:
        for payload in _payloads(one):
            ports = np.array([one.port], np.uint16)
            kind = np.array([one.protocol or TCP], np.uint8), ports, ports, np.array([one.is_http])
            payloads = Payloads(np.array([0]), np.array([len(payload)]), *kind)
            matches = own.matches(memoryview(payload), payloads)
            assert one in [own.rules[rule] for rule in matches.rule.tolist()], payload


def test_texts_are_few_and_short() -> None:
    """The number and length of the texts tried per rule are bounded."""
    found = witness_texts(expression("((a|b)+(c|d)*[^e]{0,9}){3,}").tree)
    assert len(found) <= MOST
    assert max(map(len, found)) <= LONGEST


def _payloads(one: Rule) -> Iterator[bytes]:
    """Yield payloads with a witness text in the part that the rule looks at."""
    for text in witness_payloads(expression(one.regex).tree, expression(one.regex).span_finder):
        match one.part:
            case "head" if head_end(text + BLANK) == len(text):
                yield text + BLANK
            case "body":
                yield b"POST / HTTP/1.1" + BLANK + text
            case "total":
                yield text
