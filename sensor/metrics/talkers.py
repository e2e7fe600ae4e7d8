"""Who sends the frames that match, as far as a few series can tell. Runs in the supervisor, for each report.

There are more addresses than a time series database should hear of, and anybody can make up more. So a few
are told apart, those that send most at this time, and the others are counted together. Each frame counts
once, for its address where that was told apart at that moment: rates add up.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

MOST_TALKERS = 50
"""Addresses that are told apart."""
MOST_WATCHED = 256
"""Addresses, of those that are not, whose frames are remembered from one turn to the next."""
TURN_S = 60.0
"""Between two decisions about who is told apart. What is remembered halves each time."""
LEAD = 10
"""Frames more than twice as many as another's, for its place: places change hands for a reason only."""
OTHER = "other"


class Talkers:
    """Totals by sender since the start, or since it was last told apart; bounded."""

    def __init__(self) -> None:
        self.frames: dict[bytes, int] = {}
        """By packed address."""
        self.other = 0
        self._recent: Counter[bytes] = Counter()
        self._turn_s = time.monotonic() + TURN_S

    def add(self, sources: Iterable[bytes]) -> None:
        """Count a frame for each packed address."""
        for source, frames in Counter(sources).items():
            self._recent[source] += frames
            if source in self.frames:
                self.frames[source] += frames
            elif len(self.frames) < MOST_TALKERS:
                self.frames[source] = frames
            else:
                self.other += frames
        if len(self._recent) > 4 * MOST_WATCHED:
            self._recent = Counter(dict(self._recent.most_common(MOST_WATCHED)))
        if time.monotonic() >= self._turn_s:
            self._turn_s = time.monotonic() + TURN_S
            self.turn()

    def turn(self) -> None:
        """Give places to those that sent far more of late than those that have them."""
        strangers = [one for one in self._recent.most_common(2 * MOST_TALKERS) if one[0] not in self.frames]
        for weakest in sorted(self.frames, key=self._recent.__getitem__):
            if not strangers or strangers[0][1] <= 2 * self._recent[weakest] + LEAD:
                break
            del self.frames[weakest]
            self.frames[strangers.pop(0)[0]] = 0
        self._recent = Counter({source: frames // 2 for source, frames in self._recent.items() if frames > 1})
