"""The suppression table (``suppress.c``): items above the limit per rule, flow and second are suppressed."""

from __future__ import annotations

from collections import Counter

import numpy as np

from sensor.native.suppress import SuppressionTable
from tests.fuzz.rounds import Round

BATCHES = 2000
SECONDS = 4
"""Seconds that are counted at the same time; the one that was begun first makes room for a new one."""


class SimpleCounts:
    """The same as the table, as long as nothing has to be forgotten for lack of room."""

    def __init__(self) -> None:
        self._seconds: list[int] = []
        self._counts: dict[int, Counter[tuple[int, int]]] = {}

    def admit(self, limit: int, second: int, flow: int, rules: list[int]) -> bool:
        """Count an item; return True if one of its matches is below the limit, or it has none."""
        if second not in self._seconds:
            self._seconds.append(second)
            self._counts[second] = Counter()
            if len(self._seconds) > SECONDS:
                del self._counts[self._seconds.pop(0)]
        counts = self._counts[second]
        admitted = not rules
        for rule in rules:
            if counts[flow, rule] < limit:
                counts[flow, rule] += 1
                admitted = True
        return admitted


def fuzz(one: Round) -> None:
    """Count random items in both."""
    rng, table, simple = one.rng, SuppressionTable(), SimpleCounts()
    limit = rng.choice((0, 1, 2, 5, (1 << 32) - 1))
    second = rng.choice((0, -5, 1_700_000_000, (1 << 63) - 5000))
    for _ in range(BATCHES):
        second += rng.choice((0, 0, 0, 1))
        items = [
            (
                second + rng.choice((0, 0, 0, -1, 1, 7)),
                rng.choice((0, 1, (1 << 64) - 1)),
                rng.sample((0, 1, 2, 999_999_999), rng.choice((0, 1, 1, 2, 3))),
            )
            for _ in range(rng.randrange(60))
        ]
        expected = [simple.admit(limit, *item) for item in items]
        found = table.admit(
            limit,
            np.array([item[0] for item in items], np.int64),
            np.array([item[1] for item in items], np.uint64),
            np.array([len(item[2]) for item in items], np.uint32),
            np.array([rule for item in items for rule in item[2]], np.int64),
        ).tolist()
        one.comparisons += len(items)
        if found != expected:
            one.fault(f"admitted {found} instead of {expected}: {limit} {items}")
            return
