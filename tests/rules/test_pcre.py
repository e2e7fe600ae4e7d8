"""Expressions match as they do in PCRE: compared with Debian's libpcre3."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.model import Rule
from sensor.rules.engine.budget import Budget
from sensor.rules.engine.expression import expression
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.spans import NOWHERE
from sensor.rules.files.load import load_rules
from sensor.rules.regex.parser import parse
from sensor.rules.regex.tree import Node, RegexError
from tests.rules import expressions, pcre_oracle
from tests.rules.pcre_oracle import MatchLimitError, Pcre, PcreError
from tests.rules.samples import mutated, sample

pytestmark = pytest.mark.skipif(not pcre_oracle.available(), reason="libpcre3 is not installed")

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "fp-patterns"
EVERY_BYTE = [bytes([value]) for value in range(256)]

HERE = Path(__file__).parent
SPELLINGS = (HERE / "spellings.txt").read_text().splitlines()
NO_SPELLINGS = (HERE / "no_spellings.txt").read_text().splitlines()

NO_LIMIT = 10**12

Spans = tuple[tuple[int, int], tuple[int, int] | None]


class Ours:
    """One expression, decided by the sensor's engine."""

    def __init__(self, regex: str) -> None:
        self._matcher = Matcher([Rule(1, "service", "Type", "Name", regex)])
        self._span_finder = expression(regex).span_finder

    def spans(self, text: bytes) -> Spans | None:
        """Return the spans of the match and of group 1, each None if there is none."""
        if not self._matcher.match(text, 6, 1, 2):
            return None
        whole, *group = self._span_finder.find_first(text, Budget(NO_LIMIT)) or ()
        return whole, (group[0] if group and group[0] != NOWHERE else None)


@pytest.mark.parametrize("regex", SPELLINGS)
def test_spelling(regex: str) -> None:
    """Each spelling of a construct is read as PCRE reads it."""
    ours, pcre, rng = Ours(regex), Pcre(regex.encode()), random.Random(regex)
    texts = EVERY_BYTE + [
        bytes(rng.choices(b"aAbBcCdDzx01_ {},-]\n\r\t&$", k=rng.randint(2, 8))) for _ in range(150)
    ]
    texts += [sample(parse(regex.encode()), rng) for _ in range(50)]
    for text in texts:
        assert ours.spans(text) == pcre.spans(text), text


@pytest.mark.parametrize(
    ("regex", "construct"),
    [
        (r"(a)\1", "backreference"),
        (r"(?<n>a)\k<n>", "backreference"),
        (r"(a)\g1", "backreference"),
        (r"(?P<n>a)(?P=n)", "backreference"),
        ("a(?R)?b", "recursion"),
        ("(a)(?1)", "subroutine"),
        ("(?<n>a)(?&n)", "subroutine"),
        ("(?>a+)b", "atomic group"),
        ("a++b", "possessive repeat"),
        ("a{2,3}+b", "possessive repeat"),
        ("(a)?(?(1)b|c)", "condition"),
        ("(?|(a)|(b))", "branch reset"),
        ("a(?C)b", "callout"),
        ("(*COMMIT)a", "verb"),
        ("(*UTF8)a", "verb"),
        (r"a\Kb", "moved start"),
        (r"\p{L}", "Unicode property"),
        (r"\X", "Unicode sequence"),
        (r"a\Rb", "atomic line break"),
        ("(?=a.*b)a", "lookahead must have a bounded length"),
        ("(?!.*b)a", "lookahead must have a bounded length"),
        ("a(?<!a)b", "lookbehind is allowed only at the start"),
        ("(?:a(?!b))+", "must not look past the repeated part"),
        ("(?=(a))ab", "capturing group inside a lookaround"),
        ("(?=a)*b", "repeated lookaround"),
        ("(a*)*b", "repeated part that can match the empty string"),
        ("(?:a?|b)*c", "must not prefer the empty string"),
        ("(?:a??)+c", "must not prefer the empty string"),
        ("a*", "must not match the empty string"),
        ("^", "must not match the empty string"),
        ("(?=a)", "must not match the empty string"),
        ("a$b", "can never match"),
        (r"[^\x00-\xff]a", "can never match"),
        (r"x(?:\w+\s+){1000}d", "Hyperscan"),
    ],
)
def test_constructs_that_need_backtracking_are_refused(regex: str, construct: str) -> None:
    """The message names the construct, so that the rule's author knows what to change."""
    with pytest.raises(RegexError, match=construct.replace("(", r"\(")):
        expression(regex)


@pytest.mark.parametrize("regex", NO_SPELLINGS)
def test_faulty_expressions_are_refused(regex: str) -> None:
    """PCRE refuses them too."""
    with pytest.raises(PcreError):
        Pcre(regex.encode())
    with pytest.raises(RegexError):
        expression(regex)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="ly_probe's rules are not on this machine")
def test_ly_probes_rules() -> None:
    """ly_probe's rules, on over 20,000 payloads made for them, give the same spans and groups as in PCRE."""
    rng = random.Random(116)
    rules = [replace(rule, protocol=None, port=0, is_http=False) for rule in load_rules(REFERENCE)]
    pcres = {rule.rule_id: Pcre(rule.regex.encode()) for rule in rules}
    trees = [parse(rule.regex.encode()) for rule in rules]
    matcher = Matcher(rules)
    compared = undecided = 0
    for rule, tree in zip(rules, trees, strict=True):
        for text in _payloads(tree, trees, rng):
            matching = {match.rule.rule_id for match in matcher.match(text, 6, 1, 2)}
            for other in {rule, *rng.sample(rules, 3), *(one for one in rules if one.rule_id in matching)}:
                try:
                    expected = pcres[other.rule_id].spans(text)
                except MatchLimitError:
                    undecided += 1
                    continue
                assert (other.rule_id in matching) == (expected is not None), (other.regex, text)
                assert expected is None or _located(other, text) == expected, (other.regex, text)
            compared += 1
    assert compared > 20_000
    assert undecided < compared // 100


def _payloads(tree: Node, others: list[Node], rng: random.Random) -> list[bytes]:
    """Return payloads that a rule matches, matches late, nearly matches, or shares with another rule."""
    payloads = []
    for _ in range(180):
        text = mutated(sample(tree, rng), rng)
        if rng.random() < 0.5:
            text = expressions.random_text(rng) + text
        if rng.random() < 0.3:
            text += mutated(sample(rng.choice(others), rng), rng)
        payloads.append((text + rng.choice((b"", b"\n", b"\r\n", expressions.random_text(rng))))[:1499])
    return payloads


def _located(rule: Rule, text: bytes) -> Spans:
    whole, *group = expression(rule.regex).span_finder.find_first(text, Budget(NO_LIMIT)) or ()
    return whole, (group[0] if group and group[0] != NOWHERE else None)
