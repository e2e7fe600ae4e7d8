"""Top talkers: the addresses that send the most matched frames. Runs in the supervisor, for each report.

There may be more addresses than a time series database should store, and an attacker can forge any number.
So only the addresses that currently send the most are counted one by one, the rest together. Each frame
counts once, either for its address or for the rest, so that rates add up.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

MOST_TALKERS = 50
"""Addresses that are counted one by one."""
MOST_WATCHED = 256
"""Number of addresses whose recent counts are kept once more than four times as many have counts."""
RESELECT_S = 60.0
"""Seconds between two selections of the addresses. Remembered counts halve each time."""
LEAD = 10
"""An address replaces another only if it sent this many frames more than twice the other's."""
OTHER = "other"


class Talkers:
    """Frames by sending address, each since the address was selected; bounded."""

    def __init__(self) -> None:
        self.frames: dict[bytes, int] = {}
        """Frames by packed address."""
        self.other = 0
        """Frames of all other addresses."""
        self._recent: Counter[bytes] = Counter()
        self._reselect_s = time.monotonic() + RESELECT_S

    def add(self, sources: Mapping[bytes, int]) -> None:
        """Count frames by packed address."""
        for source, frames in sources.items():
            self._recent[source] += frames
            if source in self.frames:
                self.frames[source] += frames
            elif len(self.frames) < MOST_TALKERS:
                self.frames[source] = frames
            else:
                self.other += frames
        if len(self._recent) > 4 * MOST_WATCHED:
            self._recent = Counter(dict(self._recent.most_common(MOST_WATCHED)))
        if time.monotonic() >= self._reselect_s:
            self._reselect_s = time.monotonic() + RESELECT_S
            self.reselect()

    def reselect(self) -> None:
        """Select again: replace addresses by others that recently sent far more."""
        rising = [item for item in self._recent.most_common(2 * MOST_TALKERS) if item[0] not in self.frames]
        for weakest in sorted(self.frames, key=self._recent.__getitem__):
            if not rising or rising[0][1] <= 2 * self._recent[weakest] + LEAD:
                break
            del self.frames[weakest]
            self.frames[rising.pop(0)[0]] = 0
        self._recent = Counter({source: frames // 2 for source, frames in self._recent.items() if frames > 1})
