"""RE2 as a decider: slower than Hyperscan, used for the rules that Hyperscan was seen to miss.

Runs in the capture workers and in ``sensor read``.
"""

from __future__ import annotations

from collections.abc import Mapping

from sensor.rules.engine.budget import Budget
from sensor.rules.engine.spans import SpanFinder


class LinearDecider:
    """Decides which of a few rules match a text, one rule after the other."""

    def __init__(self, span_finders: Mapping[int, SpanFinder]) -> None:
        """``span_finders`` holds the finder of each rule, by the rule's index."""
        self._span_finders = span_finders

    def add_matches(self, text: bytes, found: set[int], budget: Budget) -> None:
        """Add the rules that match to ``found``, until the budget is spent.

        A text that would cost a rule too much is searched in windows. If a match may be longer than they
        show, and none is found, the search is incomplete, as if it had been cut.
        """
        for index, span_finder in self._span_finders.items():
            if index not in found and span_finder.occurs_in(text, budget):
                found.add(index)
