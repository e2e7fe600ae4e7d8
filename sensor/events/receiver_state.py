"""The counters of each receiver, in memory that the supervisor and the event sender share.

Each number has one writer at a time: the sender or, once that is dead, the supervisor. Each is an aligned
word, so readers need no lock, and the last values of a killed sender survive it.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from enum import IntEnum


class Column(IntEnum):
    """The columns of a `ReceiverBoard`."""

    CONNECTED = 0
    SENT = 1
    LOST = 2
    REPLACED = 3


@dataclass(frozen=True, slots=True)
class ReceiverState:
    """The counters of one receiver at one moment; all numbers are events since the sensor started."""

    receiver: str
    """The receiver's URL, as in the settings."""
    connected: bool
    """True if it is open or connected. UDP: the name was resolved, and no error has come back."""
    offered: int
    sent: int
    """Events handed to the kernel; a receiver that crashes may not have read the last of them."""
    lost: int
    """Events dropped: the queue was full, the receiver was still away at the end, or the sender died."""
    replaced: int
    """Times that its file was removed, renamed or replaced without a signal."""

    @property
    def waiting(self) -> int:
        """Events on the way: offered = sent + lost + waiting."""
        return self.offered - self.sent - self.lost


class ReceiverBoard:
    """Shared memory with one row of 64-bit numbers per receiver."""

    def __init__(self, receivers: int, descriptor: int | None = None) -> None:
        """Create the memory, or map the memory behind ``descriptor``."""
        self.receivers = receivers
        size = max(1, receivers) * len(Column) * 8  # mmap refuses a length of 0
        if descriptor is None:
            descriptor = os.memfd_create("sensor-events", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self._numbers = memoryview(mmap.mmap(descriptor, size)).cast("Q")

    def row(self, receiver: int) -> memoryview[int]:
        """Return the numbers of one receiver, indexed by `Column`."""
        return self._numbers[receiver * len(Column) : (receiver + 1) * len(Column)]

    def close(self) -> None:
        """Close the descriptor; the numbers stay readable."""
        os.close(self.descriptor)
