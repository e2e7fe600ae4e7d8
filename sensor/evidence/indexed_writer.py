"""Evidence written and indexed by one process. Runs in ``sensor read`` and in ``sensor bench store``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sensor.evidence.day_writer import Gap
from sensor.evidence.device_directory import DeviceDirectory
from sensor.evidence.index_schema import Day
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.reconcile import reconcile
from sensor.evidence.recovery import Recovery
from sensor.evidence.writer import EvidenceWriter


class IndexedWriter(EvidenceWriter):
    """An evidence writer that inserts the rows of the index itself.

    Raises:
        EvidenceError: as `DeviceDirectory`.
    """

    index: IndexWriter

    def __init__(
        self,
        directory: Path,
        devid: int,
        *,
        local_time: bool = False,
        interface_name: Callable[[int], str] = str,
    ) -> None:
        self._device = DeviceDirectory(directory, devid)
        index = IndexWriter(self._device.path, interface_name)
        super().__init__(self._device.path, index, local_time=local_time)

    @property
    def recovered(self) -> list[Recovery]:
        """Files that the last run left open; the caller logs one line for each."""
        return self._device.recovered

    def reconcile(self) -> list[tuple[Day, Gap]]:
        """Compare the index with the files; return the gaps, for `sensor.reindex` to fill."""
        return reconcile(self.index)

    def tick(self, now_ns: int) -> None:
        """Finish the files whose five minutes are over, and commit the rows of the index."""
        self.index.commit()
        super().tick(now_ns)

    def close(self) -> None:
        """Finish all files, close the index and release the lock."""
        super().close()
        self.index.close()
        self._device.close()
