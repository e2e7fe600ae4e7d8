"""What became of the events, receiver by receiver: numbers in memory that supervisor and sender share.

Each number has one writer at a time (the sender; once that is dead, the supervisor) and is an aligned
word, so that readers need no lock and a sender that was killed has left its last word.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from enum import IntEnum


class Column(IntEnum):
    """Of a row, which is a receiver's."""

    CONNECTED = 0
    SENT = 1
    LOST = 2


@dataclass(frozen=True, slots=True)
class ReceiverState:
    """One receiver, at one moment; numbers are events of this run."""

    receiver: str
    """As the settings name it."""
    connected: bool
    """Open, connected; of UDP, that the name was found and nothing has come back."""
    offered: int
    sent: int
    """Handed to the kernel: a receiver that dies may not have read the last of them."""
    lost: int
    """No room, no receiver until the end, or the sender died."""

    @property
    def waiting(self) -> int:
        """On the way: nothing is offered that is not sent, lost, or this."""
        return self.offered - self.sent - self.lost


class Board:
    """A row of 64-bit numbers for each receiver."""

    def __init__(self, receivers: int, descriptor: int | None = None) -> None:
        """Make one, or map the one behind a descriptor."""
        size = max(1, receivers) * len(Column) * 8  # nothing at all cannot be mapped
        if descriptor is None:
            descriptor = os.memfd_create("sensor-events", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self._numbers = memoryview(mmap.mmap(descriptor, size)).cast("Q")

    def row(self, receiver: int) -> memoryview[int]:
        """Return the numbers of a receiver, by `Column`."""
        return self._numbers[receiver * len(Column) : (receiver + 1) * len(Column)]

    def close(self) -> None:
        """Let the descriptor go; the numbers stay readable."""
        os.close(self.descriptor)
