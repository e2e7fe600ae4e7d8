"""The tables of decisions: exact for any number of prefixes, small, and short to walk through.

The walk here is what ``bpf/plan.h`` does; tests/kernel/test_judge.py compares that with the plan.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from sensor import abi
from sensor.rules.prefilter import decision
from sensor.rules.prefilter.decision import Decisions, TableFullError
from sensor.rules.prefilter.merging import merged
from sensor.rules.prefilter.prefix import ANYTHING, WORD, Prefix
from sensor.rules.prefilter.prefix_set import PrefixSet

REJECT = abi.Counter.IGNORED_PREFIX
LETTERS = b"etaoinshrdlucmfwypvbgkjqxzETAOIN 0123456789:/-"


def words(count: int, rng: random.Random) -> PrefixSet:
    """Return beginnings like those of text protocols, in any case."""
    found = []
    for _ in range(count):
        text = bytes(rng.choices(LETTERS, k=rng.randint(3, WORD)))
        mask = bytes(0xDF if chr(byte).isalpha() else 0xFF for byte in text)
        value = bytes(byte & bits for byte, bits in zip(text, mask, strict=True))
        found.append(Prefix(*(int.from_bytes(part, "little") for part in (value, mask)), len(text)))
    return PrefixSet(found)


def masked(count: int, masks: bytes, rng: random.Random) -> PrefixSet:
    """Return prefixes with a mask from ``masks`` for each byte."""
    found = []
    for _ in range(count):
        mask = int.from_bytes(rng.choices(masks, k=WORD), "little")
        found.append(Prefix(rng.getrandbits(64) & mask, mask, rng.choice((1, 8, 64))))
    return PrefixSet(found)


SETS = {
    "words": words(3000, random.Random(1)),
    "binary": masked(3000, b"\xff", random.Random(2)),
    "with open bytes": masked(1500, b"\xff\xff\xff\xdf\xdf\xf0\0", random.Random(3)),
    "half bytes": masked(500, b"\xff\xf0\x0f\xc0", random.Random(4)),
    "two": masked(2, b"\xff\0", random.Random(5)),
    "anything long": PrefixSet([Prefix(0, 0, 100)]),
    "none": PrefixSet(),
}


class Walk:
    """The decisions that begin in a state."""

    def __init__(self, decisions: Decisions, first: int) -> None:
        self._first, self._rows, self._prefixes = first, decisions.rows.tolist(), decisions.prefixes.tolist()

    def submits(self, word: int, length: int) -> bool:
        """Return True if a payload is submitted."""
        outcome, _ = self.outcome(word, length)
        assert outcome in (abi.Counter.SUBMITTED, REJECT)
        return outcome == abi.Counter.SUBMITTED

    def outcome(self, word: int, length: int) -> tuple[int, int]:
        """Return the outcome for a payload, and the number of steps to it."""
        state, steps = self._first, 0
        while state & (abi.STATE_ROW | abi.STATE_PREFIX):
            steps += 1
            if state & abi.STATE_ROW:
                column = word >> (state & 63) & (state >> abi.STATE_MASK_SHIFT & 0xFF)
                start = (state >> abi.STATE_START_SHIFT & 0xFFFF) * abi.STATE_ROW_UNIT
                state = self._rows[start + column]
            else:
                value, mask, least, otherwise = self._prefixes[state & abi.STATE_PREFIX - 1]
                if word & mask == value and length >= least:
                    return abi.Counter.SUBMITTED, steps
                state = otherwise
        return state, steps


def payloads(prefixes: PrefixSet, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Yield first words and lengths of payloads that have the prefixes, nearly have them, or are random."""
    for value, mask, length in prefixes.prefixes[:300]:
        fitting = value | rng.getrandbits(64) & ~mask
        for word in (value, fitting, fitting ^ 1 << rng.randrange(64)):
            yield from ((word, size) for size in (length, max(length - 1, 1), 1400))
    for _ in range(500):
        yield rng.getrandbits(64), 1400
        yield int.from_bytes(rng.choices(LETTERS, k=WORD), "little"), 1400


@pytest.mark.parametrize("is_frequent", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_a_decision_is_exact(name: str, is_frequent: bool) -> None:
    """It submits the payloads that have one of the prefixes, and no other."""
    prefixes, decisions, rng = SETS[name], Decisions(10_000), random.Random(7)
    first = decisions.add(prefixes.prefixes, REJECT, abi.PLAN_STEPS, is_frequent=is_frequent)
    walk = Walk(decisions, first)
    for word, length in payloads(prefixes, rng):
        assert walk.submits(word, length) == prefixes.fits(word, length), f"{word:#x}, {length}"
        assert walk.outcome(word, length)[1] <= decisions.steps(first) <= abi.PLAN_STEPS
    assert decisions.lost == 0


def test_decisions_follow_each_other() -> None:
    """A payload without the prefixes of the first one meets those of the second one."""
    prefixes, others, decisions = SETS["words"], SETS["half bytes"], Decisions(10_000)
    then = decisions.add(others.prefixes, REJECT, abi.PLAN_STEPS - 32, is_frequent=True)
    first = decisions.add(prefixes.prefixes, then, abi.PLAN_STEPS, is_frequent=False)
    walk = Walk(decisions, first)
    for payload in payloads(others, random.Random(8)):
        assert walk.submits(*payload) == (prefixes.fits(*payload) or others.fits(*payload))


def test_tables_grow_with_the_number_of_prefixes() -> None:
    """Twenty times the prefixes take twenty times the memory, and few steps more."""
    sizes, steps = [], []
    for count in (500, 10_000):
        prefixes, decisions, rng = words(count, random.Random(9)), Decisions(4 * count), random.Random(10)
        first = decisions.add(prefixes.prefixes, REJECT, abi.PLAN_STEPS, is_frequent=True)
        sizes.append((decisions.rows.nbytes + decisions.prefixes.nbytes) / len(prefixes))
        walk = Walk(decisions, first)
        steps.append([walk.outcome(*payload)[1] for payload in payloads(prefixes, rng)])
    assert max(sizes) < 100
    assert sum(steps[1]) / len(steps[1]) < sum(steps[0]) / len(steps[0]) + 2


def test_few_steps_let_more_payloads_pass_and_never_fewer() -> None:
    """Prefixes are merged until no decision is too long."""
    prefixes, decisions, rng = SETS["half bytes"], Decisions(2000), random.Random(11)
    first = decisions.add(prefixes.prefixes, REJECT, 28, is_frequent=True)
    assert decisions.steps(first) <= 28
    assert decisions.lost > 0
    every, walk = list(payloads(prefixes, rng)), Walk(decisions, first)
    passing = [payload for payload in every if walk.submits(*payload)]
    assert set(passing) >= {payload for payload in every if prefixes.fits(*payload)}
    assert len(passing) < 0.9 * len(every)


def test_a_full_table_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither rows nor prefixes exceed what a state can address."""
    prefixes = SETS["words"].prefixes
    for limit in ("_MOST_STATES", "_MOST_PREFIXES"):
        with monkeypatch.context() as patched, pytest.raises(TableFullError):
            patched.setattr(decision, limit, 1000)
            Decisions(10_000).add(prefixes, REJECT, abi.PLAN_STEPS, is_frequent=True)


@pytest.mark.parametrize("most", [2999, 1000, 10, 1])
def test_merged_prefixes_fit_all_that_the_others_fitted(most: int) -> None:
    """There are no more of them than asked for, and they fit what they replace."""
    prefixes = SETS["words"]
    fewer = merged(prefixes, most)
    assert 0 < len(fewer) <= most
    assert all(fewer.fits(one.value, one.length) for one in prefixes)


def test_few_merged_prefixes_let_little_more_pass() -> None:
    """The closest neighbours are merged first."""
    prefixes, rng = SETS["words"], random.Random(12)
    fewer = merged(prefixes, len(prefixes) * 3 // 4)
    texts = [int.from_bytes(rng.choices(LETTERS, k=WORD), "little") for _ in range(5000)]
    before, after = (sum(some.fits(text, 1400) for text in texts) for some in (prefixes, fewer))
    assert before <= after < before + 0.05 * len(texts)


def test_no_prefix_is_left_if_none_may_be() -> None:
    """Everything passes."""
    assert merged(SETS["words"], 0) == PrefixSet([ANYTHING])
