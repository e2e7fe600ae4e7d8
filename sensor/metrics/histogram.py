"""A histogram, one bisection per observation. Filled in the supervisor, read in the exporter."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import NamedTuple


class HistogramFigures(NamedTuple):
    """The figures of a histogram at one moment."""

    sum: float
    """Sum of all observations."""
    cumulative: list[tuple[str, int]]
    """Pairs of an upper bound, as text, and the number of observations up to it; the last is ``+Inf``."""


class TimeHistogram:
    """Counts of observations by upper bound, and the sum of all observations."""

    def __init__(self, *bounds: float) -> None:
        """``bounds`` are ascending upper bounds; values above the last one are counted too."""
        self.sum = 0.0
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float, count: int = 1) -> None:
        """Count ``value`` ``count`` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self.sum += value * count

    def figures(self) -> HistogramFigures:
        """Return the figures of this moment."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return HistogramFigures(self.sum, list(zip(bounds, accumulate(self._counts), strict=True)))
