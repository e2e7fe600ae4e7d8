"""The offset between the kernel's monotonic clock and wall time; used where rings are read.

``bpf_ktime_get_ns()`` is CLOCK_MONOTONIC, evidence is keyed by wall time, and NTP slews one
against the other: the offset is measured anew while running.
"""

from __future__ import annotations

import time

_TRIES = 5


class WallClock:
    """Turns monotonic nanoseconds into nanoseconds since the epoch."""

    offset_ns: int
    """Wall time minus monotonic time, as last measured."""

    def __init__(self) -> None:
        self.offset_ns = _measure_ns()

    def remeasure(self) -> int:
        """Measure again; by how many nanoseconds wall time moved against monotonic time since."""
        before = self.offset_ns
        self.offset_ns = _measure_ns()
        return self.offset_ns - before


def _measure_ns() -> int:
    """Of a few brackets the shortest counts: in the others this process may have been scheduled away."""
    brackets = []
    for _ in range(_TRIES):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        brackets.append((after - before, wall - (before + after) // 2))
    return min(brackets)[1]
