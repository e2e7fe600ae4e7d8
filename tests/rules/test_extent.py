"""Expressions that are too large, too deep or too complex are refused before anything walks them."""

from __future__ import annotations

import random
import threading
from itertools import product

import pytest

from sensor.rules.engine.expression import expression
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.engine.spans import SpanFinder
from sensor.rules.engine.witness import witness_payloads
from sensor.rules.regex.literals import required
from sensor.rules.regex.lowering import fits, lower
from sensor.rules.regex.parser import MOST_BYTES, parse
from sensor.rules.regex.tree import MOST_DEPTH, MOST_STATES, Node, RegexError


def words(count: int, size: int) -> list[str]:
    """Return different words of a few letters."""
    rng = random.Random(size)
    return ["".join(rng.choices("abcdefghij", k=size)) for _ in range(count)]


def nested(start: str, middle: str, end: str, levels: int) -> str:
    """Return an expression in as many others."""
    return start * levels + middle + end * levels


def walk(tree: Node) -> None:
    """Call what walks a lowered tree, apart from Hyperscan."""
    assert tree == lower(tree)
    fits(tree, RFC9110.beginnings)
    required(tree)
    assert any(witness_payloads(tree, SpanFinder(tree)))


STATES = {
    "(?:(?:(?:a{1000}){1000}){1000}){1000}": "10^12",
    "(?=(?:(?:(?:){0,32}){0,32}){0,32}a)ab": "32,771",
    "(?<=(?:(?:(?:(?:a{0}){99}){99}){99}){99})b": "more than 10^7",
    "(?:.{1,1000}a){1000}": "1,001,000",
    nested("(?:", "a", "){65535}", 90): "more than 10^433",
    nested("(?<=", nested("(?:", "a|b", "){2}", 15), ")", 1) + "b": "65,537",
    "(?:(?=a)a)?" * 40 + "b": "with its lookarounds written out expands to",
    "(?!ab)[a-z]" * 1000: "with its lookarounds written out expands to",
    f"(?<!{'|'.join(words(128, 32))})q": "the lookbehind written out expands to",
    f"(?!{'|'.join(words(60, 8))})[a-z]{{10}}{'x' * 1000}": "expands to",
}
"""The number of states in the message, by expression."""
OTHERS = {
    nested("(?:x|a", "b", ")*", 90): "nested too deeply",
    nested("(?:", "a", "b)+", 90): "nested too deeply",
    nested("(", "a", ")", 101): "nested more than 100 deep",
    "(?=(?:a|b|c){0,32})a(?=(?:a|b|c){7}d)": "at most 128 texts",
    f"(?={'|'.join(words(129, 9))})a": "at most 128 texts",
    "(?=aaaaaaaaaaaaaaaax)(?:a|aa|aaa)+x": "too complex",
    "a" * (MOST_BYTES + 1): "16,001 bytes",
}
"""Part of the message, by expression."""
ACCEPTED = (
    "(?=(?:(?:(?:){0,27}){0,27}){0,27}a)ab",
    "(?<=(?:(?:(?:a{0}){9}){9}){9})b",
    nested("(?:", "a", "){2}", 13),
    nested("(?=a", "b", ")", 31) + "a",
    nested("(", "a", ")", 90),
    nested("(?:a|", "b", ")", 90),
    r"(?=ab)" + r"\b" * 3000 + "ab",
    "(?!a)b" * 1000,
    "(?:)" * 3000 + "a",
    r"\Q" + "(a{9})" * 600 + r"\E",
    "(?x)" + "a # comment\n" * 1000,
    "".join(f"(?<n{number}>a)" for number in range(1000)),
    "[a-z0-9]" * 1000,
)


@pytest.mark.parametrize(("regex", "states"), STATES.items(), ids=range(len(STATES)))
def test_large_expressions_are_refused_with_their_size(regex: str, states: str) -> None:
    """Repeats, lookaheads and lookbehinds are counted, not written out."""
    with pytest.raises(RegexError) as error:
        expression(regex)
    assert states in str(error.value)
    assert f"({MOST_STATES:,} are allowed); use smaller repeats" in str(error.value)


@pytest.mark.parametrize(("regex", "message"), OTHERS.items(), ids=range(len(OTHERS)))
def test_deep_and_long_expressions_are_refused(regex: str, message: str) -> None:
    """The message says what to change."""
    with pytest.raises(RegexError, match=message):
        expression(regex)


@pytest.mark.parametrize("regex", ACCEPTED, ids=range(len(ACCEPTED)))
def test_expressions_near_the_limits(regex: str) -> None:
    """They are lowered and compiled, and have witness texts; nothing recurses too deeply."""
    failures: list[Exception] = []

    def use() -> None:
        try:
            walk(lower(parse(regex.encode())))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=use)  # which has the whole stack for itself, as a reload has
    thread.start()
    thread.join()
    assert not failures, failures


@pytest.mark.parametrize("shape", [*product(("(?:{}b)*", "(?:{}|b)", "(?={}b)", "({})"), repeat=2)])
def test_nested_shapes_are_decided(shape: tuple[str, str]) -> None:
    """Any depth that the parser allows is either walked or refused."""
    for levels in (1, 5, 20, 37, 38, 50, 75):
        regex = "a"
        for level in range(levels):
            regex = shape[level % 2].format(regex)
        try:
            tree = lower(parse(f"x{regex}".encode()))
        except RegexError:
            continue
        assert tree.extent.depth <= MOST_DEPTH
        walk(tree)
