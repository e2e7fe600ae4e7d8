"""The matcher's shortcuts do not change what it finds."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from sensor.model import Rule
from sensor.rules.engine.expression import expression
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.scan import SCREEN_BITS, Screen, Screened
from sensor.rules.files.load import load_rules
from sensor.rules.regex.tree import Bytes
from tests.rules.expressions import random_text
from tests.rules.naive import Naive
from tests.rules.samples import mutated, sample

ROOT = Path(__file__).parents[2]
DIRECTORIES = [ROOT / "fp-pattern", ROOT.parent / "shared" / "reference" / "fp-patterns"]
STARTS = [
    b"GET /?q=",
    b"POST /x HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\nServer: ",
    b"PUT /x HTTP/1.1\r\nHost: a\r\n",
    b"",
]


@pytest.mark.usefixtures("enough_time")
@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda directory: directory.parent.name)
def test_all_rules_together_match_what_each_matches_alone(directory: Path) -> None:
    """Screens, parts, protocols and decoding give the same matches as searching everywhere for each rule."""
    if not directory.is_dir():
        pytest.skip("these rules are not on this machine")
    rules, rng = list(load_rules(directory)), random.Random(3)
    naive, matcher = [Naive(rule) for rule in rules], Matcher(rules)
    matches = 0
    for _ in range(1000):
        payload, protocol = _payload(rules, rng), rng.choice((6, 6, 6, 17, 1))
        found = [match.rule.rule_id for match in matcher.match(payload, protocol, 80, 5000)]
        assert found == [one.rule.rule_id for one in naive if one.matches(payload, protocol)], payload
        matches += len(found)
    assert matches > 300


def test_few_patterns_of_a_screen_have_the_same_id() -> None:
    """Hyperscan compiles patterns of the same id in quadratic time; what the ids call for is not affected."""
    groups = [
        [Screened.of(expression(f"needle{number}").tree) for number in range(first, first + 600)]
        for first in (0, 300)
    ]
    ids = Screen.of(groups, {Bytes(frozenset(b"%")): 1 << 16}).fast_patterns.ids
    assert Counter(number % (1 << SCREEN_BITS) for number in ids) == {1: 300, 2: 300, 3: 300, 1 << 16: 1}
    assert max(Counter(ids).values()) <= 256
    assert max(ids) < 1 << 32


def _payload(rules: list[Rule], rng: random.Random) -> bytes:
    """Return a payload with texts that some rules look for, in any of its parts, encoded or not."""
    pieces = []
    for rule in rng.choices(rules, k=rng.randint(1, 3)):
        text = sample(expression(rule.regex).tree, rng)
        text = mutated(text, rng) if rng.random() < 0.2 else text
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            text = b"".join(
                b"%%%02x" % byte if rng.random() < 0.3 or byte == 37 else bytes([byte]) for byte in text
            )
        pieces.append(b"\r\n\r\n" + text if rule.part == "body" else text)
    glue = rng.choice((b"", b"\r\n", b"\r\n\r\n", b"&", random_text(rng)))
    return (rng.choice(STARTS) + glue.join(pieces) + rng.choice((b"", b"\r\n\r\n", b" HTTP/1.1\r\n\r\nx")))[
        :2000
    ]
