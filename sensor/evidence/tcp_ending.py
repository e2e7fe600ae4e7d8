"""The end of a TCP connection, as its stored packets show it.

Runs in the API process and in ``sensor evidence``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress

import numpy as np

from sensor.decode import decode
from sensor.errors import EvidenceError
from sensor.evidence.conversation import Ending
from sensor.evidence.stored import Stored, StoredRecords
from sensor.model import FiveTuple, FrameBatch

_FIN, _RST = 0x01, 0x04


def seen_ending(packets: Sequence[Stored]) -> Ending | None:
    """Return how the packets of a connection end; None if they do not show it, or are not TCP."""
    finished: set[FiveTuple] = set()
    with closing(StoredRecords()) as records:
        for one in packets:
            with suppress(EvidenceError):  # it was deleted
                flags = _tcp_flags(records.read(one).frame, one.linktype)
                if flags & _RST:
                    return Ending.RST
                if flags & _FIN:
                    finished.add(one.five_tuple)
    return Ending.FIN if len(finished) > 1 else None


def _tcp_flags(frame: bytes, linktype: int) -> int:
    def column(value: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([value], np.int64)

    size, nothing = column(len(frame)), column(0)
    batch = FrameBatch(memoryview(frame), nothing, size, size, nothing, nothing, linktype)
    return int(decode(batch).tcp_flags[0])
