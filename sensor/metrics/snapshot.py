"""The supervisor's latest figures, in memory that it shares with the exporter.

There is one writer and any number of readers, and none of them waits: the writer overwrites, and a reader
whose checksum is wrong, because it read during a write, reads again.
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
"""Size of the shared memory; far more than a snapshot needs, since all its parts are bounded."""
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
    """The law of the counters, the kernel's part as of the same moment."""
    tally: Tally
    loads: RuleLoads
    digest: str
    """SHA-256 of the rules in force."""
    rules: dict[str, int]
    """Number of rules in force, by class."""
    matches: dict[str, dict[str, int]]
    """Matches by outcome (one of `sensor.metrics.catalogue.OUTCOMES`), then by class of the rule."""
    files_finished: int
    workers: int
    workers_alive: int
    clock_jumps: int
    map_bytes: dict[str, int]
    """Bytes of memory by name of the BPF map."""
    index: IndexFigures
    is_reindexing: bool
    reindex_remaining: int
    reindex_done: int
    """Bytes of evidence files that were reindexed; ``reindex_remaining`` are still to be."""
    deleted: dict[Reason, Deleted]
    """Files and bytes deleted by retention, by reason."""
    retention_failures: int
    receivers: list[ReceiverState]
    """Receivers of events."""


class SnapshotBoard:
    """Anonymous memory with one `Snapshot`, shared by the process that creates it and its forks."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SIZE)

    def publish(self, snapshot: Snapshot) -> None:
        """Replace the snapshot."""
        data = pickle.dumps(snapshot, pickle.HIGHEST_PROTOCOL)
        self._memory[: _HEAD.size] = _HEAD.pack(len(data), zlib.crc32(data))
        self._memory[_HEAD.size : _HEAD.size + len(data)] = data

    def read(self) -> Snapshot:
        """Return the latest snapshot.

        Raises:
            LookupError: there is none yet, or the supervisor ended while it wrote one.
        """
        for _ in range(_TRIES):
            size, checksum = _HEAD.unpack(self._memory[: _HEAD.size])
            data = self._memory[_HEAD.size : _HEAD.size + size]
            if size and len(data) == size and zlib.crc32(data) == checksum:
                snapshot: Snapshot = pickle.loads(data)  # noqa: S301 - our own supervisor wrote it
                return snapshot
            time.sleep(0.001)
        raise LookupError("the supervisor has published no figures")
