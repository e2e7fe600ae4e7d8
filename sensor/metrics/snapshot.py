"""The board: what the supervisor last said of itself, in memory that it shares with the exporter.

One writer, any number of readers, nobody waits: the writer overwrites, a reader tells by a checksum
whether it came in between, and looks again.
"""

from __future__ import annotations

import mmap
import pickle
import struct
import time
import zlib
from dataclasses import dataclass

from sensor.counters import Counters
from sensor.events.receiver_state import ReceiverState
from sensor.evidence.index_writer import IndexFigures
from sensor.evidence.retention import Deleted, Reason
from sensor.metrics.rule_loads import RuleLoads
from sensor.metrics.tally import Tally

SIZE = 1 << 20
"""Far above what a snapshot takes, whose parts are bounded."""
_TRIES = 100
_HEAD = struct.Struct("=II")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The supervisor's figures at one moment."""

    time_s: float
    """Seconds since the epoch."""
    started_s: float
    state: str
    """One of `sensor.metrics.catalogue.STATES`."""
    counters: Counters
    """The kernel's part is as old as the rest."""
    tally: Tally
    loads: RuleLoads
    digest: str
    """Of the rules in force."""
    rules: dict[str, int]
    """How many, by class."""
    matches: dict[str, dict[str, int]]
    """By what became of their frames, one of `sensor.metrics.catalogue.OUTCOMES`, and class of rule."""
    files_finished: int
    workers: int
    workers_alive: int
    clock_jumps: int
    map_bytes: dict[str, int]
    """Memory of the kernel's maps, by name."""
    index: IndexFigures
    is_reindexing: bool
    reindex_remaining: int
    reindex_done: int
    """Bytes of evidence files."""
    deleted: dict[Reason, Deleted]
    """By retention."""
    retention_failures: int
    receivers: list[ReceiverState]
    """Of the events."""


class Board:
    """Anonymous shared memory: it is there for the process that makes it and those that it forks."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SIZE)

    def publish(self, snapshot: Snapshot) -> None:
        """Put it up in the place of the one before."""
        data = pickle.dumps(snapshot, pickle.HIGHEST_PROTOCOL)
        self._memory[: _HEAD.size] = _HEAD.pack(len(data), zlib.crc32(data))
        self._memory[_HEAD.size : _HEAD.size + len(data)] = data

    def read(self) -> Snapshot:
        """Return what is up.

        Raises:
            LookupError: Nothing is yet, or the supervisor ended while it was writing.
        """
        for _ in range(_TRIES):
            size, checksum = _HEAD.unpack(self._memory[: _HEAD.size])
            data = self._memory[_HEAD.size : _HEAD.size + size]
            if size and len(data) == size and zlib.crc32(data) == checksum:
                snapshot: Snapshot = pickle.loads(data)  # noqa: S301 - our own supervisor wrote it
                return snapshot
            time.sleep(0.001)
        raise LookupError("the supervisor has published nothing")
