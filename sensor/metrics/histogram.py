"""A histogram that costs a bisection an observation; filled by the supervisor, read by the exporter."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate


class TimeHistogram:
    """Observations counted by upper bounds, and their sum."""

    def __init__(self, *bounds: float) -> None:
        """``bounds`` ascend; what is above the last is counted as well."""
        self.sum = 0.0
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value so many times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self.sum += value * count

    def cumulative(self) -> list[tuple[str, float]]:
        """Each bound as text and how many observations are not above it, up to ``+Inf``."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return [(bound, float(count)) for bound, count in zip(bounds, accumulate(self._counts), strict=True)]
