"""The extension headers of IPv6 packets; the loop is in ``extensions.c``. Runs where `sensor.decode` runs.

Each packet has its own chain of headers. With a step of numpy per header, a packet with eight of them would
cost more than all other packets of a small batch.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.native import library, pointer

WHOLE, CUT_OFF, LATER_FRAGMENT = range(3)
"""``enum outcome`` in ``extensions.c``."""

_walk_extensions = library.walk_extensions
_walk_extensions.restype = None


class Walked(NamedTuple):
    """Where the walks of n packets ended; each array has shape (n,)."""

    position: NDArray[np.int64]
    """Start of what follows the extension headers."""
    protocol: NDArray[np.uint8]
    """Protocol of what follows."""
    is_first: NDArray[np.bool_]
    """True for the first of several fragments."""
    outcome: NDArray[np.uint8]


def walk_extensions(
    data: NDArray[np.uint8], position: NDArray[np.int64], end: NDArray[np.int64], protocol: NDArray[np.uint8]
) -> Walked:
    """Walk up to eight extension headers (RFC 8200, section 4) of n packets.

    ``protocol`` names the header at ``position``, which is at least 0; a packet ends at ``end``, which is at
    most the size of ``data``.
    """
    count = len(position)
    walked = Walked(position.copy(), protocol.copy(), np.zeros(count, np.bool_), np.empty(count, np.uint8))
    ends = np.ascontiguousarray(end)
    _walk_extensions(
        pointer(data),
        pointer(walked.position),
        pointer(ends),
        *map(pointer, (walked.protocol, walked.is_first, walked.outcome)),
        ctypes.c_int64(count),
    )
    return walked
