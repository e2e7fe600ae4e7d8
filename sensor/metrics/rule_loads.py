"""Counts of rule loads, successful and failed. Filled by the supervisor, published to the exporter."""

from __future__ import annotations

import time

from sensor.metrics.histogram import TimeHistogram


class RuleLoads:
    """What came of loading rules, the first time included."""

    def __init__(self) -> None:
        self.failed = 0
        self.is_stale = False
        """The last load failed: the rules in force are not those of the files."""
        self.seconds = TimeHistogram(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
        """Of those that succeeded."""
        self.last_success_s = 0.0
        """When rules were last ready for use, seconds since the epoch."""

    def succeeded(self, seconds: float) -> None:
        """Note a load that took so long."""
        self.seconds.observe(seconds)
        self.is_stale = False
        self.last_success_s = time.time()
