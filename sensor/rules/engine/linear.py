"""RE2 as a decider: slower than Hyperscan, for the rules that Hyperscan was seen to miss.

Runs wherever packets are matched.
"""

from __future__ import annotations

from collections.abc import Mapping

from sensor.rules.engine.scan import Budget, Hits
from sensor.rules.engine.spans import SpanFinder


class LinearDecider:
    """Says which of a few rules hit a text, one rule after the other."""

    def __init__(self, captures: Mapping[int, SpanFinder]) -> None:
        """``captures`` are those of each rule, by the number that its hits are reported by."""
        self._captures = captures

    def add_hits(self, text: bytes, hits: Hits, budget: Budget) -> None:
        """Add the rules that hit to ``hits``, as far as the budget reaches.

        What a rule cannot afford at once is searched piece by piece, each half over the one before:
        longer hits than half a piece may be missed there.
        """
        for index, captures in self._captures.items():
            if index in hits:
                continue
            for start, end in captures.pieces(len(text)):
                if budget.is_spent():
                    budget.cut += 1
                    return
                seen = captures.hit_end(text, start, end)
                if seen >= 0:
                    hits[index] = seen
                    break
