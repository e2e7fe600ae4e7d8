"""Counts of rule loads, successful and failed. Filled in the supervisor, read in the exporter."""

from __future__ import annotations

import time
from typing import NamedTuple

from sensor.metrics.histogram import HistogramFigures, TimeHistogram


class LoadFigures(NamedTuple):
    """The figures of `RuleLoads` at one moment."""

    failed: int
    is_stale: bool
    seconds: HistogramFigures
    last_success_s: float


class RuleLoads:
    """Results of all loads of the rules, the first one at the start included."""

    def __init__(self) -> None:
        self.failed = 0
        self.is_stale = False
        """True if the last load failed, so that the rules in force differ from the files."""
        self.seconds = TimeHistogram(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
        """Durations of successful loads."""
        self.last_success_s = 0.0
        """Time of the last successful load, in seconds since the epoch."""

    def succeeded(self, seconds: float) -> None:
        """Count a successful load that took ``seconds``."""
        self.seconds.observe(seconds)
        self.is_stale = False
        self.last_success_s = time.time()

    def figures(self) -> LoadFigures:
        """Return the figures of this moment."""
        return LoadFigures(self.failed, self.is_stale, self.seconds.figures(), self.last_success_s)
