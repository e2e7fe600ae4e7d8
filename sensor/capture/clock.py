"""The offset between the kernel's monotonic clock and wall time. Runs in the processes that read rings.

Frames carry the time of ``bpf_ktime_get_ns()`` (CLOCK_MONOTONIC), and evidence has wall time. NTP slews one
clock against the other, so the offset is measured again and again.
"""

from __future__ import annotations

import time

_TRIES = 5


class WallClock:
    """Converts monotonic nanoseconds to nanoseconds since the epoch."""

    offset_ns: int
    """Wall time minus monotonic time, when it was last measured."""

    def __init__(self) -> None:
        self.offset_ns = _measure_ns()

    def remeasure(self) -> int:
        """Measure the offset again, and return by how many nanoseconds it has changed."""
        before = self.offset_ns
        self.offset_ns = _measure_ns()
        return self.offset_ns - before


def _measure_ns() -> int:
    """Return the offset by the shortest of some measurements: longer ones were interrupted."""
    brackets = []
    for _ in range(_TRIES):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        brackets.append((after - before, wall - (before + after) // 2))
    return min(brackets)[1]
