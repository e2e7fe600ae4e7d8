"""RE2 as a decider: texts searched in windows have the matches that PCRE finds, or count as cut."""

from __future__ import annotations

from random import Random

import pytest

from sensor.rules.engine import spans
from sensor.rules.engine.budget import Budget
from sensor.rules.engine.expression import span_finder
from sensor.rules.regex.parser import parse
from sensor.rules.regex.tree import longest
from tests.rules import pcre_oracle
from tests.rules.pcre_oracle import Pcre
from tests.rules.test_locate import WINDOWED

pytestmark = pytest.mark.skipif(not pcre_oracle.available(), reason="libpcre3 is not installed")

UNLIMITED = [
    (r"ab+c$", b"abbbbbbbbbc"),
    (r"\bn[^ ]*e\b", b"noooooooooooooooe"),
    (r"(?m)^x.*y$", b"\nx0123456789y\n"),
]
EDGES = [
    (r"abc$", b"abc"),
    (r"abc\z", b"abc"),
    (r"abc(?![a-z])", b"abc."),
    (r"abc\b", b"abc"),
    (r"\Babc", b"xabc"),
]


@pytest.mark.parametrize(("regex", "text"), WINDOWED + UNLIMITED + EDGES)
def test_windows_invent_nothing_and_hide_nothing(
    regex: str, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A match that is found is one; if none is found, there is none, or the search counts as cut."""
    finder, pcre, rng = span_finder(regex), Pcre(regex.encode()), Random(regex)
    kinds = set()
    for _ in range(600):
        monkeypatch.setattr(spans, "WORK", finder._size * rng.randint(1, 40))
        pieces = rng.choices(
            (text, text[:-1], text[1:], b"abcx", b"s", b" ", b"-", b"\n", b"x"), k=rng.randint(1, 20)
        )
        payload = b"".join(pieces)
        rest = Budget(10**12)
        found, expected = finder.occurs_in(payload, rest), pcre.spans(payload) is not None
        assert found == expected or (rest.is_cut and expected), payload
        kinds.add((found, rest.is_cut))
    assert kinds >= {(True, False), (False, True)}


@pytest.mark.parametrize(
    ("regex", "most"),
    [
        ("abc", 3),
        ("a?", 1),
        ("a*", None),
        ("(?:a|bc){2,3}", 6),
        ("a{0}b*", None),
        ("(?:^|x)y$", 2),
        ("(?:){3}", 0),
    ],
)
def test_the_greatest_length_of_a_match(regex: str, most: int | None) -> None:
    """It is what the tree consumes at most."""
    assert longest(parse(regex.encode())) == most
