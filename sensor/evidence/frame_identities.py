"""Frames that are kept already, known by the CPU that saw them and its time. Runs in the supervisor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PLACES = 1 << 20
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(64 - 20)


class FrameIdentities:
    """Remembers frames in 8 MiB. Newer frames displace older ones, which are then not recognised."""

    def __init__(self) -> None:
        self._places = np.zeros(_PLACES, np.uint64)

    def add(self, items: NDArray[np.void]) -> None:
        """Remember the frames of items; those of capture files have no identity."""
        identities, places = _identities(items)
        self._places[places] = identities

    def has(self, items: NDArray[np.void]) -> NDArray[np.bool_]:
        """Return True for each item whose frame is remembered."""
        identities, places = _identities(items)
        return np.asarray((self._places[places] == identities) & (identities != 0))


def _identities(items: NDArray[np.void]) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """Return the identity of each item, 0 if it has none, and its place."""
    ktime_ns = items["ktime_ns"]
    identities = np.where(ktime_ns == 0, 0, ktime_ns * _MULTIPLIER + items["cpu"]).astype(np.uint64)
    return identities, (identities * _MULTIPLIER >> _SHIFT).astype(np.intp)
