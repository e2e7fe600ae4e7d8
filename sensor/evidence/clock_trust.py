"""Belief in the wall clock: evidence is deleted by age only as far as the clock is believed.

Runs where evidence is deleted. A host that starts with a dead clock in the future, or whose clock is set
wrong, would otherwise delete everything it has.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.capture.syscalls import clock_is_synchronised

JUMP_S = 60.0
"""Change of the wall clock within an hour that counts as a jump; a clock that is only slewed moves less."""
GRACE_S = 3600.0
"""Time after a jump without deletions by age."""
GAP_S = 7 * 86_400.0
"""Longest gap in the evidence that a clock is believed to have measured without being synchronised."""


class ClockReading(NamedTuple):
    """The clocks of the host at one moment."""

    wall_s: float
    """Seconds since the epoch."""
    boot_s: float
    """Seconds since the host was started, which nobody can set."""
    is_synchronised: bool
    """True if the kernel says that another clock keeps the wall clock right (adjtimex(2))."""


def read_clock() -> ClockReading:
    """Return the reading of this moment."""
    return ClockReading(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), bool(clock_is_synchronised()))


class ClockTrust:
    """Watches the wall clock, and says which times in the past it is believed to know the age of.

    A synchronised clock is believed. Any other one is believed as far back as evidence leads without a gap of
    more than `GAP_S`: a clock that is wrong by years leaves a gap of years, also after the next start.
    """

    def __init__(self) -> None:
        self._offset_s: float | None = None
        self._measured_s = self._watched_s = 0.0  # since boot
        self._jumped_s: float | None = None

    def note(self, reading: ClockReading) -> None:
        """Compare a reading with those before; call this regularly."""
        offset_s = reading.wall_s - reading.boot_s
        if self._offset_s is None:
            self._watched_s = reading.boot_s
        elif abs(offset_s - self._offset_s) > JUMP_S:
            self._watched_s = self._jumped_s = reading.boot_s
        elif reading.boot_s - self._measured_s < GRACE_S:
            return
        self._offset_s, self._measured_s = offset_s, reading.boot_s

    def is_settled(self, reading: ClockReading) -> bool:
        """Return True unless the clock has jumped within the last hour."""
        return self._jumped_s is None or reading.boot_s - self._jumped_s >= GRACE_S

    def believed_from_s(self, ends_s: NDArray[np.float64], reading: ClockReading) -> float:
        """Return the earliest time whose age is believed, given the ascending times of the evidence.

        The time in which `note` saw no jump has no gaps, with or without evidence.
        """
        if reading.is_synchronised:
            return -np.inf
        watched_s = reading.wall_s - (reading.boot_s - self._watched_s)
        times_s = np.append(ends_s[ends_s < watched_s], watched_s)
        gaps = np.flatnonzero(np.diff(times_s) > GAP_S)
        return float(times_s[gaps[-1] + 1]) if len(gaps) else -np.inf
