"""RE2 as a decider: slower than Hyperscan, used for the rules that Hyperscan was seen to miss.

Runs in the capture workers and in ``sensor read``.
"""

from __future__ import annotations

from collections.abc import Mapping

from sensor.rules.engine.scan import Budget, MatchEnds
from sensor.rules.engine.spans import SpanFinder


class LinearDecider:
    """Decides which of a few rules match a text, one rule after the other."""

    def __init__(self, span_finders: Mapping[int, SpanFinder]) -> None:
        """``span_finders`` holds the finder of each rule, by the rule's index."""
        self._span_finders = span_finders

    def add_matches(self, text: bytes, ends: MatchEnds, budget: Budget) -> None:
        """Add the rules that match to ``ends``, until the budget is spent.

        If searching the whole text would cost a rule too much, it is searched in overlapping windows:
        matches longer than half a window may be missed.
        """
        for index, span_finder in self._span_finders.items():
            if index in ends:
                continue
            for start, end in span_finder.windows(len(text)):
                if budget.is_spent():
                    budget.is_cut = True
                    return
                match_end = span_finder.match_end(text, start, end)
                if match_end >= 0:
                    ends[index] = match_end
                    break
