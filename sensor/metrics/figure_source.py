"""Where the figures are read when somebody asks: the board, the kernel's maps, the rings, the host.

Runs in the exporter. Each method raises one of `UNREADABLE` where its source went away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.capture.nic import Received, nic_counters, received
from sensor.capture.ring import PerfRing
from sensor.errors import SensorError
from sensor.metrics.snapshot import Board, Snapshot

UNREADABLE = (OSError, LookupError, ValueError, SensorError)
EVIDENCE_S = 60.0
"""Between two looks into an evidence directory in which no file came or went; it may hold very many."""
_SOFTNET = Path("/proc/net/softnet_stat")


class InterfaceFigures(NamedTuple):
    """Of one interface."""

    name: str
    received: Received
    losses: dict[str, int]


class Softnet(NamedTuple):
    """Of one CPU: what its backlog dropped, and how often its round was over before its work was."""

    cpu: int
    dropped: int
    squeezed: int


class EvidenceFigures(NamedTuple):
    """Of the evidence directory and its file system."""

    files: int
    size: int
    oldest_s: float | None
    """Start of the first file's five minutes, seconds since the epoch; None without a file."""
    disk_free: int
    disk_size: int


class FigureSource:
    """The figures of a running sensor."""

    def __init__(
        self,
        board: Board,
        counters_by_cpu: Callable[[], NDArray[np.void]],
        rings: Sequence[PerfRing],
        interfaces: Sequence[str],
        evidence: Path,
        *,
        local_time: bool,
    ) -> None:
        """``evidence`` is the directory that has the files; the rings are mapped in this process.

        ``counters_by_cpu`` gives an `abi.COUNTERS` for each of the interfaces, in their order, and CPU.
        """
        self._board = board
        self._counters_by_cpu = counters_by_cpu
        self._rings = rings
        self._interfaces = interfaces
        self._evidence = evidence
        self._local_time = local_time
        self._listed: tuple[int, float, tuple[int, int, float | None]] | None = None

    def supervisor(self) -> Snapshot:
        """Return what the supervisor published last."""
        return self._board.read()

    def kernel(self) -> dict[str, NDArray[np.void]]:
        """Return what the kernel counted by interface, shape (CPUs,): an `abi.COUNTERS` each."""
        return dict(zip(self._interfaces, self._counters_by_cpu(), strict=True))

    def rings(self) -> dict[int, float]:
        """Return the share of each CPU's ring that is taken."""
        return {ring.cpu: ring.fill() for ring in self._rings}

    def interfaces(self) -> list[InterfaceFigures]:
        """Ask drivers and kernel."""
        return [InterfaceFigures(name, received(name), nic_counters(name)) for name in self._interfaces]

    def softnet(self) -> list[Softnet]:
        """Read a line a CPU; the columns are those of ``softnet_seq_show()`` in net/core/net-procfs.c."""
        rows = [[int(word, 16) for word in line.split()] for line in _SOFTNET.read_text().splitlines()]
        return [Softnet(row[12] if len(row) > 12 else i, row[1], row[2]) for i, row in enumerate(rows)]

    def evidence(self) -> EvidenceFigures:
        """Look at the file system now, and into the directory when files came or went, or after a minute."""
        disk = os.statvfs(self._evidence)
        changed_ns, now_s = self._evidence.stat().st_mtime_ns, time.monotonic()
        listed = self._listed  # of several threads each may look, none sees half of it
        if listed is None or listed[0] != changed_ns or now_s - listed[1] > EVIDENCE_S:
            listed = changed_ns, now_s, _files(self._evidence, local_time=self._local_time)
            self._listed = listed
        return EvidenceFigures(*listed[2], disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)


def _files(directory: Path, *, local_time: bool) -> tuple[int, int, float | None]:
    """How many evidence files there are, their size, and the start of the first."""
    sizes = dict(_sizes(directory))
    oldest_s = None
    if sizes:
        oldest = datetime.strptime(min(sizes)[:12], "%Y%m%d%H%M")
        oldest_s = (oldest.astimezone() if local_time else oldest.replace(tzinfo=UTC)).timestamp()
    return len(sizes), sum(sizes.values()), oldest_s


def _sizes(directory: Path) -> Iterable[tuple[str, int]]:
    with os.scandir(directory) as entries:
        yield from _sizes_of(entries)


def _sizes_of(entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[str, int]]:
    for entry in entries:
        if entry.name[:12].isdecimal() and entry.name.endswith((".pcap", ".pcap.temp")):
            with suppress(FileNotFoundError):  # renamed at this moment, or deleted
                yield entry.name, entry.stat(follow_symlinks=False).st_size
