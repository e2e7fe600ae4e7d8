"""The evidence files of a device, listed for retention. Runs where evidence is deleted.

A directory may hold a year of files, so it is listed as rarely as its size demands.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.file_name import FileName, parse_name

LISTING_S = 2.0
"""Shortest time between two listings."""
LISTING_SHARE = 200
"""A listing is used for this many times the CPU time it took: half a percent of a CPU."""


class StoredFile(NamedTuple):
    """A finished evidence file."""

    end_s: int
    """End of its five minutes, in seconds since the epoch."""
    name: str
    size: int
    is_threat: bool


class StoredFiles:
    """The files of a directory, as they were listed last."""

    def __init__(self, directory: Path) -> None:
        self.others: list[StoredFile] = []
        """Finished files, the oldest first, except those with threat evidence."""
        self.threats: list[StoredFile] = []
        """Finished files with threat evidence, the oldest first."""
        self.ends_s: NDArray[np.float64] = np.empty(0)
        """The ends of all files, ascending."""
        self.other_bytes = self.threat_bytes = self.index_bytes = 0
        """Size of the evidence, finished or open, without and with threats; and of the index."""
        self.held: frozenset[str] = frozenset()
        """Names of files that are not to be deleted."""
        self._directory = directory
        self._names: dict[str, FileName | None] = {}
        self._due_s = 0.0

    def refresh(self) -> bool:
        """List the directory if the last listing is too old; return True if it was.

        Raises:
            OSError: it cannot be listed.
        """
        if time.monotonic() < self._due_s:
            return False
        started_s = time.process_time()
        self._list()
        cost_s = time.process_time() - started_s
        self._due_s = time.monotonic() + max(LISTING_S, LISTING_SHARE * cost_s)
        return True

    def hold(self, names: frozenset[str]) -> None:
        """Leave these files out from now on; others that are released come back with the next listing."""
        if names != self.held:
            self.held = names
            self.others = [file for file in self.others if file.name not in names]
            self.threats = [file for file in self.threats if file.name not in names]

    def leave_out(self, files: list[StoredFile], deleted: list[StoredFile]) -> None:
        """Leave out files until the next listing, because they were deleted or cannot be."""
        self.other_bytes -= sum(file.size for file in deleted if not file.is_threat)
        self.threat_bytes -= sum(file.size for file in deleted if file.is_threat)
        gone = {file.name for file in files}
        self.others = [file for file in self.others if file.name not in gone]
        self.threats = [file for file in self.threats if file.name not in gone]

    def _list(self) -> None:
        before, self._names = self._names, {}
        finished: list[StoredFile] = []
        ends_s: list[int] = []
        total_bytes, index_bytes = [0, 0], 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                text = entry.name
                name = before[text] if text in before else parse_name(text)
                self._names[text] = name
                if name is None and ".sqlite" not in text:
                    continue
                try:
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    size = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:  # renamed or deleted meanwhile
                    continue
                if name is None:
                    index_bytes += size
                    continue
                ends_s.append(name.end_s)
                total_bytes[name.is_threat] += size
                if not name.is_open and text not in self.held:
                    finished.append(StoredFile(name.end_s, text, size, name.is_threat))
        finished.sort()
        self.others = [file for file in finished if not file.is_threat]
        self.threats = [file for file in finished if file.is_threat]
        self.ends_s = np.sort(np.array(ends_s, np.float64))
        self.other_bytes, self.threat_bytes = total_bytes
        self.index_bytes = index_bytes
