"""Rules are shown to hit before they are used; what the engine misses is found all the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import hyperscan
import numpy as np
import pytest

from sensor.model import Rule
from sensor.rules.engine import scan
from sensor.rules.engine.expression import expression
from sensor.rules.engine.http_payload import RFC9110, head_end
from sensor.rules.engine.matcher import Matcher, Payloads
from sensor.rules.engine.proof import missed
from sensor.rules.engine.scan import SLICE
from sensor.rules.engine.witness import LONGEST, MOST, OFFSETS, placed, texts
from sensor.rules.files.load import load_rules
from sensor.rules.ready import make_ready
from sensor.rules.regex.render import Renderer
from sensor.rules.regex.tree import Node
from tests.rules.test_scan import STALLING, check_cost

TCP = 6
BLANK = b"\r\n\r\n"
COOKIE = r"(?:['\"=]\s{0,2}\+\s{0,2}|(?:encodeuricomponent|btoa)\()document\.cookie"
"""Vectorscan 5.4.12 misses its second branch behind 13 bytes and more."""

KINDS: dict[str, tuple[dict[str, object], bytes]] = {
    "plain": ({}, b"%s"),
    "total": ({"is_http": True}, b"GET /?%s HTTP/1.1" + BLANK),
    "head": ({"is_http": True, "part": "head"}, b"GET /?%s HTTP/1.1" + BLANK),
    "body": ({"is_http": True, "part": "body"}, b"POST / HTTP/1.1" + BLANK + b"%s"),
    "decoded": ({"is_http": True, "part": "body", "decode": "url"}, b"POST / HTTP/1.1" + BLANK + b"%s"),
}
"""Where rules look: the fields of such a rule, and a payload around what it looks for."""


def rule(regex: str, rule_id: int = 1, **fields: object) -> Rule:
    """Return a rule around a regex."""
    return Rule(rule_id, "threat", "Type", "Name", regex, **fields)  # type: ignore[arg-type]


def found(matcher: Matcher, payload: bytes) -> list[int]:
    """Return the ids of the rules that hit."""
    return [match.rule.rule_id for match in matcher.match(payload, TCP, 80, 5000)]


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Hyperscan's databases without the expressions that hold "42"."""
    compiled = scan._compile

    def _compile(mode: int, trees: list[tuple[int, Node]]) -> hyperscan.Database | None:
        return compiled(
            mode, [(number, tree) for number, tree in trees if "42" not in Renderer().render(tree)]
        )

    monkeypatch.setattr(scan, "_compile", _compile)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hit_is_found_behind_any_number_of_bytes(kind: str) -> None:
    """An expression that a release of Vectorscan misses behind 13 bytes is found wherever it stands."""
    fields, around = KINDS[kind]
    hit = b"btoa%28document%2Ecookie))" if kind == "decoded" else b"btoa(document.cookie))"
    matcher = Matcher([rule(COOKIE, **fields)])
    assert [n for n in range(201) if not found(matcher, around % (b"x" * n + hit))] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filler", [0, 1, 64, SLICE, 30 * SLICE])
@pytest.mark.usefixtures("lying")
def test_what_the_engine_misses_is_found(kind: str, filler: int) -> None:
    """A rule that the databases miss hits all the same, wherever rules look; others are not disturbed."""
    fields, around = KINDS[kind]
    hit = b"needle%2042 honest" if kind == "decoded" else b"needle 42 honest"
    matcher = Matcher([rule("needle (42)", 1, **fields), rule("honest", 2, **fields)])
    payload = around % (b"." * filler + hit)
    assert found(matcher, payload) == [1, 2]
    assert found(matcher, payload.replace(b"42", b"43")) == [2]
    assert [one.rule_id for one in matcher.missed] == [1]


@pytest.mark.usefixtures("lying")
def test_a_missed_rule_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one line about it at each start, whether rules were compiled or kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one = {"type": "t", "name": "n", "regex": "needle 42"}
    rules = {"4711": one, "4712": {**one, "regex": "honest"}}
    (tmp_path / "threat.json").write_text(json.dumps({"threat": {"rules": rules}}))
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            make_ready(tmp_path, RFC9110, lenient=False)
        assert caplog.messages == ["rule 4711 is decided by RE2, Hyperscan misses it"]
        caplog.clear()


@pytest.mark.parametrize(
    ("tells", "expected"),
    [
        (lambda _: True, []),
        (lambda _: False, [0]),
        (lambda text: text.find(b"btoa") < 13, [0]),
        (lambda text: b"BTOA" not in text, [0]),
        (lambda text: len(text) <= SLICE, [0]),
        (lambda text: len(text) % 16 != 5, [0]),
    ],
)
def test_a_lie_is_noticed(tells: object, expected: list[int]) -> None:
    """An engine is caught that misses a rule at all, at some offsets, in one case, or in long texts."""
    assert missed([expression(COOKIE)], {0: [lambda _: True, tells]}) == expected  # type: ignore[list-item]


def test_a_rule_that_nothing_shows_to_hit_is_not_trusted() -> None:
    """Where none of the texts that are tried hits, nothing was shown."""
    unproven = expression("|".join([rf"x{number}\b_" for number in range(100)]) + "|zz")
    assert not list(placed(unproven.tree, unproven.captures))
    assert missed([unproven], {0: [lambda _: True]}) == [0]


@pytest.mark.usefixtures("lying")
def test_a_spent_budget_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """What RE2 could not be asked any more is counted."""
    matcher = Matcher([rule("needle 42", 1), rule("other 42", 2)])
    monkeypatch.setattr(scan, "BUDGET_NS", -1)
    assert (found(matcher, b"other 42"), matcher.cut) == ([], 1)


def test_no_payload_stalls_rules_that_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expressions made to stall, all of them left to RE2, cost a bounded time as well."""
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
    """Every branch, either case, repeats at their least and more."""
    assert among <= set(texts(expression(regex).tree)) | {
        text.lower() for text in texts(expression(regex).tree)
    }


def test_offsets_cover_a_vector() -> None:
    """An expression that may hit anywhere does so behind 0 to 64 bytes, and in a later slice."""
    one = expression("needle")
    offsets = {text.lower().find(b"needle") for text in placed(one.tree, one.captures)}
    assert offsets >= set(range(OFFSETS))
    assert any(offset < SLICE < offset + 6 for offset in offsets)
    assert max(offsets) >= SLICE


@pytest.fixture(scope="module")
def own() -> Matcher:
    """Return the matcher of the rules that come with the sensor."""
    return Matcher(load_rules(Path(__file__).parents[2] / "fp-pattern"))


def test_no_own_rule_is_missed(own: Matcher) -> None:
    """The engine that is installed finds every rule of ours."""
    assert own.missed == ()


def test_own_rules_are_found_wherever_they_hit(own: Matcher) -> None:
    """Texts that a rule hits are matches of it, in the part of a packet that it looks at."""
    for one in own.rules:
        for payload in _payloads(one):
            ports = np.array([one.port], np.uint16)
            kind = np.array([one.protocol or TCP], np.uint8), ports, ports, np.array([one.is_http])
            found = own.match_each(
                memoryview(payload), Payloads(np.array([0]), np.array([len(payload)]), *kind)
            )
            assert found, payload
            assert one in [match.rule for match in found[0][1]], payload


def test_texts_are_few_and_short() -> None:
    """What is tried of one rule is bounded, whatever the rule."""
    found = texts(expression("((a|b)+(c|d)*[^e]{0,9}){3,}").tree)
    assert len(found) <= MOST
    assert max(map(len, found)) <= LONGEST


def _payloads(one: Rule) -> Iterator[bytes]:
    """Yield payloads with a hit in the part that the rule looks at."""
    for text in placed(expression(one.regex).tree, expression(one.regex).captures):
        match one.part:
            case "head" if head_end(text + BLANK) == len(text):
                yield text + BLANK
            case "body":
                yield b"POST / HTTP/1.1" + BLANK + text
            case "total":
                yield text
