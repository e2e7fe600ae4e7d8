"""Positions in lookarounds match as in PCRE: ends of text and lines, word boundaries, in every place.

The expressions are systematic: each position, before or after a byte, in an alternative or nested, in each
kind of lookaround, at the start, in the middle and at the end of an expression. Those that are refused
are refused with a message; the others have PCRE's matches and spans, and the plan hides none of them.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from sensor import abi
from sensor.model import Rule
from sensor.protocols import TCP
from sensor.rules.engine.expression import expression
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.engine.locate import locate
from sensor.rules.engine.matcher import Matcher
from sensor.rules.prefilter.plan import Plan, demands
from sensor.rules.regex.tree import RegexError
from tests.rules import pcre_oracle
from tests.rules.pcre_oracle import Pcre, PcreError
from tests.rules.samples import payloads_of

pytestmark = pytest.mark.skipif(not pcre_oracle.available(), reason="libpcre3 is not installed")

POSITIONS = (r"\z", r"\Z", "$", r"\A", "^", r"\b", r"\B", r"\G", "(?m:$)", "(?m:^)")
INSIDE = ("{p}", "a{p}", "{p}a", "a{p}b", r"a{p}\n", r"\n{p}", "a|{p}", "a{p}|b", "(?:a{p}|b)c", "(?:a{p})?")
INSIDE += ("(?:a{p}){{2}}", "a(?={p})", "a(?!{p})", "(?<=a{p})", "(?<!a{p})", "{p}{p}")
LOOKS = {"(?={})": 300, "(?!{})": 300, "(?<={})": 15, "(?<!{})": 60}
"""By kind of lookaround: the least number of expressions that are not refused."""
AROUND = ("{}b", "{}[ab]$", r"{}\n", "{}(b)c?", "(?:{}b|c)", "a{}", "a{}b", "^a{}", "[ab]+{}", "(?:a|b{})")
AROUND += ("a{}{}", "{}^b", r"{}\bb", r"{}(?:a|b)\z", "(?:a{})?b", r"{}.*b")
TEXTS = [bytes(text) for size in range(1, 5) for text in product(b"ab\n", repeat=size)]
TEXTS += [b"abc", b"a b", b"ac", b"a c\n", b"bc", b"cab", b"aab\nb", b"ab\nab\n", b"abcabc"]


def usable(look: str) -> tuple[list[Rule], list[Pcre]]:
    """Return rules with lookarounds of a kind that PCRE and the sensor accept."""
    rules, pcres = [], []
    for position, inside, around in product(POSITIONS, INSIDE, AROUND):
        one = look.format(inside.format(p=position))
        regex = around.replace("{}", one)
        try:
            pcre = Pcre(regex.encode())
            expression(regex)
        except (PcreError, RegexError):
            continue
        rules.append(Rule(len(rules) + 1, "threat", "T", "N", regex))
        pcres.append(pcre)
    return rules, pcres


@pytest.mark.parametrize(("look", "least"), LOOKS.items())
def test_positions_in_lookarounds(look: str, least: int) -> None:
    """Matches and spans are those of PCRE, and no packet that matches is ignored by the kernel's plan."""
    rules, pcres = usable(look)
    matches = Matcher(rules).matches(*payloads_of([(text, TCP, 1, 2) for text in TEXTS], RFC9110))
    found = np.zeros((len(rules), len(TEXTS)), np.bool_)
    found[matches.rule, matches.payload] = True
    for number, (rule, pcre) in enumerate(zip(rules, pcres, strict=True)):
        plan = Plan.of(demands([rule], RFC9110))
        for at, text in enumerate(TEXTS):
            expected = pcre.spans(text)
            assert found[number, at] == (expected is not None), (rule.regex, text)
            if expected:
                match = locate(rule, text, RFC9110)
                assert (match.start, match.end) == (expected[1] or expected[0]), (rule.regex, text)
                assert plan.judge(TCP, 1, 2, text) == abi.Counter.SUBMITTED, (rule.regex, text)
    assert len(rules) >= least
