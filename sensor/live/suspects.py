"""The search for the one frame that workers die of. Runs in the supervisor.

The suspects are the oldest frames of a ring, up to one position. A worker reads half of them, then half of
the rest, and so on. If it dies, those it was reading are the suspects of its successor. Only a frame that was
read alone, and that killed every worker that read it, is put aside.

A worker's signs of life say whether it was reading the ring, and which payload it was matching. A lie costs
time: the suspects may be too few or too many at first, but a frame is judged by what it does alone.
"""

from __future__ import annotations

from sensor.capture.ring import PerfRing

MOST_DEATHS = 2
"""Workers that may die of a frame that they read alone, until it is put aside."""


class Suspects:
    """The frames of one ring that a worker may have died of."""

    def __init__(self, ring: PerfRing) -> None:
        self.end = ring.tail
        """Position in the ring after the last suspect; there is none if the tail has passed it."""
        self._ring = ring
        self._deaths = 0
        """Deaths of the oldest frame alone."""
        self._batch_end = self._doubted_until = self.end
        """No sign of life is believed about frames before the latter, because an earlier one was wrong."""

    def note_death(self, place: int) -> bool:
        """Find the suspects after a worker has died of an unread frame; return True if it is the oldest one.

        The tail is where its reports end. ``place`` is the offset in the buffer of what it was matching, as
        far as it said so, or 0.

        Raises:
            KernelError: The ring is damaged.
        """
        ring = self._ring
        if ring.tail < self.end:
            self.end = ring.halfway(self.end)
            self._deaths += ring.halfway(self.end) == self.end
            return self._deaths >= MOST_DEATHS
        if self._deaths < MOST_DEATHS:  # the suspects of earlier deaths were harmless
            self._doubted_until = self._batch_end
        self._deaths = 0
        self._batch_end = ring.end_of_frame(0)
        self.end = self._batch_end if ring.tail < self._doubted_until else ring.end_of_frame(place)
        return False
