"""Frames that are kept already, known by the CPU that saw them and its time. Runs in the supervisor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WAYS = 8
_SET_BITS = 17
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIXER = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(64 - _SET_BITS)


class FrameIdentities:
    """Remembers frames in 8 MiB.

    A frame is forgotten when eight newer ones belong to the same of 131,072 sets. Of the last 100,000 frames,
    hardly one in a million is.
    """

    def __init__(self) -> None:
        self._sets = np.zeros((1 << _SET_BITS, _WAYS), np.uint64)
        self._next = np.zeros(1 << _SET_BITS, np.uint8)
        """The way of each set that is written next."""

    def add(self, items: NDArray[np.void]) -> None:
        """Remember the frames of items; those of capture files have no identity."""
        if not items["ktime_ns"].any():
            return
        identities, sets = _identities(items)
        order = np.argsort(sets, kind="stable")
        ordered = sets[order]
        found, first, counts = np.unique(ordered, return_index=True, return_counts=True)
        turn = np.arange(len(ordered)) - np.repeat(first, counts)
        ways = (self._next[ordered] + turn) % _WAYS
        self._sets[ordered, ways] = identities[order]
        self._next[found] = (self._next[found] + counts) % _WAYS

    def has(self, items: NDArray[np.void]) -> NDArray[np.bool_]:
        """Return True for each item whose frame is remembered."""
        identities, sets = _identities(items)
        return np.asarray((self._sets[sets] == identities[:, None]).any(axis=1) & (identities != 0))


def _identities(items: NDArray[np.void]) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """Return the identity of each item, 0 if it has none, and its set."""
    ktime_ns = items["ktime_ns"]
    identities = np.where(ktime_ns == 0, 0, ktime_ns * _MULTIPLIER + items["cpu"]).astype(np.uint64)
    mixed = (identities ^ identities >> np.uint64(29)) * _MIXER
    return identities, (mixed >> _SHIFT).astype(np.intp)
