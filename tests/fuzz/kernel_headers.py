"""The kernel's parser: it finds in every frame what `sensor.decode` finds, up to the first tunnel."""

from __future__ import annotations

from functools import cache

from tests.fuzz.random_frames import random_frame
from tests.fuzz.rounds import Round
from tests.kernel.test_parse import SMALLEST_FRAME, Probe, disagreements

FRAMES = 10_000
_probe = cache(Probe)


def fuzz(one: Round) -> None:
    """Parse random frames in the kernel and in user space."""
    frames = [random_frame(one.rng) for _ in range(FRAMES)]
    named = [(frame.hex(), frame) for frame in frames if len(frame) >= SMALLEST_FRAME]
    for text in disagreements(_probe(), named):
        one.fault(text)
    one.comparisons += len(named)
