"""Signs of life that a worker gives from inside a batch, in memory that only it and the supervisor share.

They tell a slow worker from a dead one. The worker writes them, so the supervisor believes nothing of what
they say: at worst it searches longer for the frame that kills workers.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np

_WORDS = 3
_BEATS, _PLACE, _READER_OF = range(_WORDS)


class Sign(NamedTuple):
    """The signs of life of one moment."""

    beats: int
    """Stages done since the start."""
    place: int
    """Offset, in the buffer of the batch, of the payload that is matched; 0 during other stages."""
    cpu: int | None
    """The CPU whose ring is read; None between two batches."""


class Heartbeat:
    """The signs of life of one worker. Create it before the worker is forked."""

    def __init__(self) -> None:
        self._words = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.uint64, _WORDS)
        self.place = self._words[_PLACE : _PLACE + 1]
        """The word for the offset of the payload that is matched; `match.c` writes it."""

    @property
    def shared_address(self) -> int:
        """Address of the shared memory."""
        return int(self._words.ctypes.data)

    def beat(self) -> None:
        """Say that a stage is done."""
        self._words[_PLACE] = 0
        self._words[_BEATS] += 1

    def enter_ring(self, cpu: int) -> None:
        """Say that frames of this CPU's ring are read from now on."""
        self._words[_READER_OF] = cpu + 1
        self.beat()

    def leave_ring(self) -> None:
        """Say that what was read has been reported and released."""
        self._words[_READER_OF] = 0
        self.beat()

    def sign(self) -> Sign:
        """Return the signs of life of this moment."""
        beats, place, reader_of = self._words.tolist()
        return Sign(beats, place, reader_of - 1 if reader_of else None)
