"""Reads the figures at each request: the supervisor's snapshot, the kernel's maps, the host.

Runs in the exporter. Each method raises one of `UNREADABLE` if its source cannot be read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.capture.nic import Received, nic_counters, received
from sensor.errors import InterfaceError, SensorError
from sensor.evidence.evidence_file import evidence_sizes
from sensor.evidence.file_name import parse_name
from sensor.metrics.snapshot import Snapshot, SnapshotReader

UNREADABLE = (OSError, LookupError, ValueError, SensorError)
EVIDENCE_S = 60.0
"""Seconds between two listings of an unchanged evidence directory, which may be very large."""
_SOFTNET = Path("/proc/net/softnet_stat")


class InterfaceFigures(NamedTuple):
    """Figures of one interface."""

    name: str
    received: Received
    losses: dict[str, int]


class Softnet(NamedTuple):
    """Figures of one CPU: frames dropped from its full backlog, and polls that ended with work left."""

    cpu: int
    dropped: int
    squeezed: int


class EvidenceFigures(NamedTuple):
    """Figures of the evidence directory and its file system; sizes are bytes."""

    files: int
    size: int
    oldest_s: float | None
    """Start of the oldest file's five minutes, in seconds since the epoch; None without a file."""
    disk_free: int
    disk_size: int


class FigureSource:
    """The sources of a running sensor's figures."""

    def __init__(
        self,
        board: SnapshotReader,
        counters_by_cpu: Callable[[], NDArray[np.void]],
        interfaces: Sequence[str],
        evidence: Path,
        *,
        local_time: bool,
    ) -> None:
        """``evidence`` is the directory of the evidence files.

        ``counters_by_cpu`` returns `abi.COUNTERS` of shape (interfaces, CPUs), ordered as ``interfaces``.
        """
        self._board = board
        self._counters_by_cpu = counters_by_cpu
        self._interfaces = interfaces
        self.evidence_directory = evidence
        self._local_time = local_time
        self._listed: tuple[int, float, tuple[int, int, float | None]] | None = None

    @property
    def shared_addresses(self) -> list[int]:
        """Addresses in the memory that this process shares with the supervisor."""
        return [self._board.address]

    def supervisor(self) -> Snapshot:
        """Return the supervisor's latest snapshot."""
        return self._board.read()

    def kernel(self) -> dict[str, NDArray[np.void]]:
        """Return the kernel's counters by interface: `abi.COUNTERS` of shape (CPUs,)."""
        return dict(zip(self._interfaces, self._counters_by_cpu(), strict=True))

    def rings(self) -> dict[int, float]:
        """Return the fill of each CPU's ring, 0 to 1, as the supervisor saw it last."""
        return self.supervisor().ring_fill

    def interfaces(self) -> list[InterfaceFigures]:
        """Return what the drivers and the kernel count."""
        found, gone = [], None
        for name in self._interfaces:
            try:
                found.append(InterfaceFigures(name, received(name), nic_counters(name)))
            except InterfaceError as error:  # another figure says which is lost
                gone = error
        if gone and not found:
            raise gone
        return found

    def softnet(self) -> list[Softnet]:
        """Return a row per CPU; the columns are those of ``softnet_seq_show()`` in net/core/net-procfs.c."""
        rows = [[int(word, 16) for word in line.split()] for line in _SOFTNET.read_text().splitlines()]
        return [Softnet(row[12] if len(row) > 12 else i, row[1], row[2]) for i, row in enumerate(rows)]

    def evidence(self) -> EvidenceFigures:
        """Query the file system; list the directory only if it has changed or after `EVIDENCE_S`."""
        disk = os.statvfs(self.evidence_directory)
        changed_ns, now_s = self.evidence_directory.stat().st_mtime_ns, time.monotonic()
        listed = self._listed  # read once: another thread may replace it
        if listed is None or listed[0] != changed_ns or now_s - listed[1] > EVIDENCE_S:
            listed = changed_ns, now_s, _files(self.evidence_directory, local_time=self._local_time)
            self._listed = listed
        return EvidenceFigures(*listed[2], disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)


def _files(directory: Path, *, local_time: bool) -> tuple[int, int, float | None]:
    """Return the number of evidence files, their size in bytes, and the start of the oldest."""
    sizes = evidence_sizes(directory)
    starts_s = [name.start_s for name in map(parse_name, sizes) if name]
    oldest_s: float | None = min(starts_s, default=None)
    if oldest_s is not None and local_time:
        oldest_s = datetime.fromtimestamp(oldest_s, UTC).replace(tzinfo=None).astimezone().timestamp()
    return len(sizes), sum(size for size, _ in sizes.values()), oldest_s
