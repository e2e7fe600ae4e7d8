"""How long and how often a measurement tries, and whom it tells what comes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Step = Callable[[str], None]


class Effort(NamedTuple):
    """What a rough answer spares."""

    seconds: float
    """Of a trial, about."""
    repeats: int
    halvings: int
    """Steps of the search for the highest rate without loss."""


FULL, QUICK = Effort(2, 3, 5), Effort(0.5, 1, 3)
