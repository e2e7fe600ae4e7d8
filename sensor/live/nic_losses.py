"""The frames that NICs have lost, which conversations report as missing. Runs in the supervisor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from sensor.capture.nic import nic_counters
from sensor.errors import InterfaceError

PERIOD_S = 5.0
"""Seconds between two readings, which take some milliseconds."""
_KINDS = ("rx_missed_errors", "rx_fifo_errors", "rx_over_errors")


class NicLosses:
    """The losses of some NICs, as of the last reading."""

    def __init__(self, names: Sequence[str]) -> None:
        """Read them; ``names`` are those of the interfaces."""
        self.frames = 0
        """Frames lost since the drivers were loaded, at least: drivers count a loss under several names."""
        self._names = names
        self._due_s = 0.0
        self.tick()

    def tick(self) -> None:
        """Read them again if it is time; call this once per second."""
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + PERIOD_S
        frames = 0
        for name in self._names:
            with suppress(InterfaceError, OSError):  # it is gone, which its check finds
                counters = nic_counters(name)
                frames += max(counters.get(kind, 0) for kind in _KINDS)
        self.frames = max(self.frames, frames)
