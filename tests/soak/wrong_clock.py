"""When the sensor's wall clock is wrong during a soak, and by how much."""

from __future__ import annotations

import time
from random import Random

_S = 10**9
_HOUR = 3600 * _S
_STEPS_NS = (400 * 24 * _HOUR, 4 * 24 * _HOUR, -_HOUR, -5 * _S)
_LONGEST_S = 5


def clock_steps(rng: Random, seconds: float, rest_s: float) -> list[tuple[int, int, int]]:
    """Return steps for the next ``seconds``: start and end on the monotonic clock, and how far; in ns."""
    steps = []
    start_ns = time.monotonic_ns() + int(rest_s * _S)
    end_ns = start_ns + int(seconds * _S)
    while start_ns < end_ns:
        duration_ns = int(rng.uniform(0.1, _LONGEST_S) * _S)
        steps.append((start_ns, start_ns + duration_ns, rng.choice(_STEPS_NS)))
        start_ns += duration_ns + int(rng.expovariate(1 / rest_s) * _S)
    return steps
