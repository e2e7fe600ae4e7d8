"""How long and how often measurements try. Runs in ``sensor bench``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Step = Callable[[str], None]
"""Called before each step of a measurement with a few words that describe it, to show progress."""


class RingEffort(NamedTuple):
    """The effort of ``sensor bench ring``."""

    seconds: float
    """Approximate length of a trial."""
    repeats: int
    halvings: int
    """Bisection steps of the search for the highest rate without loss."""


class ReplayEffort(NamedTuple):
    """The effort of ``sensor bench replay``."""

    seconds: float
    """Length of a trial."""
    halvings: int
    """Bisection steps of the search for the highest rate without loss."""
    repeats: int

    @property
    def trials(self) -> int:
        """The number of trials a search needs if the first rate it finds is confirmed."""
        return self.halvings + self.repeats + 4


RING_FULL, RING_QUICK = RingEffort(2, 3, 5), RingEffort(0.5, 1, 3)
REPLAY_FULL, REPLAY_QUICK = ReplayEffort(3, 7, 3), ReplayEffort(0.4, 3, 1)


class OverloadEffort(NamedTuple):
    """The effort of ``sensor bench overload``."""

    calm_s: float
    """Time before a flood; longer than the ten seconds after which a source is known."""
    flood_s: float


OVERLOAD_FULL, OVERLOAD_QUICK = OverloadEffort(12, 20), OverloadEffort(11, 4)
