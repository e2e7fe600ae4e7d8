"""The table of suppression, whose loop is in ``suppress.c``. Runs in the process that writes evidence."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from sensor.native import library, pointer

SLOTS = 1 << 18
"""Number of keys that the table holds, in 16 bytes each."""

_SECONDS = 4
_suppress = library.suppress
_suppress.restype = None


class SuppressionTable:
    """Counts per rule, flow and second, in memory of a fixed size."""

    def __init__(self) -> None:
        self._slots = np.zeros(SLOTS, "V16")
        self._seconds = np.zeros(_SECONDS + 1, np.int64)

    def admit(
        self,
        limit: int,
        seconds: NDArray[np.int64],
        flows: NDArray[np.uint64],
        matches: NDArray[np.uint32],
        rule_ids: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return True for each of n items that has a match below the limit, or no match; shape (n,).

        Args:
            limit: Items per rule, flow and second.
            seconds: The second of each item.
            flows: The flow of each item.
            matches: The number of matches of each item.
            rule_ids: The rule of each match, shape (sum of ``matches``,).
        """
        admitted = np.empty(len(seconds), np.uint8)
        columns = [np.ascontiguousarray(column) for column in (seconds, flows, matches, rule_ids)]
        _suppress(
            pointer(self._slots),
            ctypes.c_uint64(SLOTS),
            pointer(self._seconds),
            ctypes.c_uint32(limit),
            *(pointer(column) for column in columns),
            ctypes.c_int64(len(seconds)),
            pointer(admitted),
        )
        return admitted.view(np.bool_)
