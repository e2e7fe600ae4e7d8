"""The supervisor's latest figures, in memory that it shares with the exporter.

There is one writer and any number of readers, and none of them waits. The writer overwrites the figures. A
reader that reads during a write gets a wrong checksum, and reads again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from sensor import native
from sensor.counters import Counters
from sensor.events.receiver_state import ReceiverState
from sensor.evidence.index_writer import IndexFigures
from sensor.evidence.retention import Deleted, LimitName
from sensor.metrics.costly_sources import CostlySource
from sensor.metrics.rule_loads import LoadFigures
from sensor.metrics.tally import TallyFigures

SIZE = 1 << 20
"""Size of the shared memory; far more than a snapshot needs, since all its parts are bounded."""
_TRIES = 100
_HEAD = struct.Struct("=II")
_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; Python has no name for it yet
_SEALS = _SEAL_FUTURE_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SurroundingsFigures:
    """Figures of things that the sensor needs but does not do itself."""

    clock_synchronised: bool | None = None
    """None if the kernel does not say."""
    api_up: bool | None = None
    """True if something answers at the address of the API; None if that is not known yet."""
    certificates: dict[str, float] = field(default_factory=dict)
    """When the first certificate in each file expires, in seconds since the epoch."""


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
    tally: TallyFigures
    loads: LoadFigures
    digest: str
    """SHA-256 of the rules in force."""
    rules: dict[str, int]
    """Number of rules in force, by class."""
    matches: dict[str, dict[str, int]]
    """Matches by outcome (one of `sensor.metrics.catalogue.OUTCOMES`), then by class of the rule."""
    suppressed: dict[str, int]
    """Frames suppressed, by one of `sensor.metrics.catalogue.SUPPRESSING`."""
    files_finished: int
    writes_fail: bool
    """True from a failed write of evidence until writing works again."""
    files_replaced: int
    workers: int
    workers_alive: int
    clock_jumps: int
    ring_fill: dict[int, float]
    """Used share of each CPU's ring, 0 to 1. The exporter has no ring itself: it could read the frames."""
    map_bytes: dict[str, int]
    """Bytes of memory by name of the BPF map."""
    costly_sources: list[CostlySource]
    index: IndexFigures
    index_missing: int
    """Rows that the indexer did not get in time."""
    is_reindexing: bool
    reindex_remaining: int
    reindex_done: int
    """Bytes of evidence files that were reindexed; ``reindex_remaining`` are still to be."""
    deleted: dict[LimitName, Deleted]
    """Files and bytes deleted by retention, by limit."""
    retention_failures: int
    receivers: list[ReceiverState]
    """Receivers of events."""
    surroundings: SurroundingsFigures
    history_reach_s: float | None = None
    """Age of the oldest frame in the kernel's history, of the CPU where it is youngest."""
    conversations: int = 0
    """Conversations opened since the start."""
    conversations_open: int = 0
    conversations_refused: dict[str, int] = field(default_factory=dict)
    """Matches whose context was not kept, by budget."""
    ports_attached: dict[str, bool] = field(default_factory=dict)
    """False for a port that is lost, by name."""


class SnapshotBoard:
    """Memory with one `Snapshot` as JSON. Only the process that creates it can write to it.

    Forks of that process do not have the mapping, and the file behind it is sealed: a `SnapshotReader` can
    map it for reading only.
    """

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("sensor-figures", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._descriptor, SIZE)
        self._memory = mmap.mmap(self._descriptor, SIZE)
        self._memory.madvise(mmap.MADV_DONTFORK)
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS)
        self._is_too_large = False

    def publish(self, snapshot: Snapshot) -> None:
        """Replace the snapshot."""
        data = json.dumps(_SNAPSHOT.dump_python(snapshot), separators=(",", ":")).encode("ascii")
        if _HEAD.size + len(data) > SIZE:
            if not self._is_too_large:
                log.error("metrics: the figures need %d bytes and are not published", len(data))
            self._is_too_large = True
            return
        self._memory[: _HEAD.size] = _HEAD.pack(len(data), zlib.crc32(data))
        self._memory[_HEAD.size : _HEAD.size + len(data)] = data

    def reader(self) -> SnapshotReader:
        """Return a reader; call this in the process that reads, which may be a fork."""
        return SnapshotReader(self._descriptor)


class SnapshotReader:
    """Reads the snapshots of a `SnapshotBoard`."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory; the descriptor is not needed afterwards."""
        self._memory = mmap.mmap(descriptor, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)

    @property
    def address(self) -> int:
        """Address of the memory in this process."""
        return native.address(memoryview(self._memory))

    def read(self) -> Snapshot:
        """Return the latest snapshot.

        Raises:
            LookupError: there is none yet, or the supervisor ended while it wrote one.
            ValueError: this is no snapshot.
        """
        for _ in range(_TRIES):
            size, checksum = _HEAD.unpack(self._memory[: _HEAD.size])
            data = self._memory[_HEAD.size : _HEAD.size + size]
            if size and len(data) == size and zlib.crc32(data) == checksum:
                return _SNAPSHOT.validate_python(json.loads(data))
            time.sleep(0.001)
        raise LookupError("the supervisor has published no figures")


_SNAPSHOT = TypeAdapter(Snapshot)
