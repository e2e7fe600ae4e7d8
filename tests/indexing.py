"""Evidence that is indexed by another process, as in `sensor run`, without the rest of the supervisor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from processes import TIMEOUT_S, wait_until

from sensor.config.settings import Settings
from sensor.evidence.device_directory import DeviceDirectory
from sensor.evidence.verify import verify
from sensor.evidence.writer import EvidenceWriter
from sensor.live.indexer_process import IndexerProcess

DEVID = 3
INTERFACES = {1: "eth1", 2: "eth2"}


class Indexing:
    """A writer and its indexer."""

    def __init__(self, device: DeviceDirectory, indexer: IndexerProcess, writer: EvidenceWriter) -> None:
        self.device, self.indexer, self.writer = device, indexer, writer

    def tick_until(self, holds: Callable[[], object]) -> None:
        """Do what the supervisor's loop does, until a condition is true."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not holds():
            assert time.monotonic() < deadline_s, self.indexer.report
            self.indexer.tick()
            time.sleep(0.002)

    def tick_until_complete(self) -> None:
        """Wait until everything that was written has a row."""
        self.tick_until(lambda: self.is_complete)

    @property
    def is_complete(self) -> bool:
        """True if the indexer says that nothing is missing."""
        report = self.indexer.report
        return not (report.waiting or report.is_behind or report.is_reindexing)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the indexer, once it is prepared for that; return its process id."""
        pid = self.indexer.pid
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sensor-index\n")
        os.kill(pid, number)
        return pid


@contextmanager
def indexing(settings: Settings) -> Iterator[Indexing]:
    """Write evidence below the evidence directory of the settings."""
    with (
        closing(DeviceDirectory(settings.evidence, DEVID)) as device,
        closing(IndexerProcess(settings, device.path, INTERFACES)) as indexer,
        closing(EvidenceWriter(device.path, indexer)) as writer,
    ):
        yield Indexing(device, indexer, writer)


def faults(settings: Settings) -> list[str]:
    """Return the differences between files and index."""
    return [verdict.fault for verdict in verify(settings.evidence / str(DEVID), DEVID) if verdict.fault]
