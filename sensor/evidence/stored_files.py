"""The evidence files of a device, listed for retention. Runs where evidence is deleted.

A directory may hold a year of files, so it is listed as rarely as its size demands.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.file_name import FileKind, FileName, parse_name

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
    kind: FileKind


class StoredFiles:
    """The files of a directory, as they were listed last."""

    def __init__(self, directory: Path) -> None:
        self.finished: dict[FileKind, list[StoredFile]] = {kind: [] for kind in FileKind}
        """Finished files of each kind, the oldest first."""
        self.bytes = dict.fromkeys(FileKind, 0)
        """Size of the evidence of each kind, finished or open."""
        self.index_bytes = 0
        self.ends_s: NDArray[np.float64] = np.empty(0)
        """The ends of all files, ascending."""
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
            self._leave_out(names)

    def leave_out(self, files: list[StoredFile], deleted: list[StoredFile]) -> None:
        """Leave out files until the next listing, because they were deleted or cannot be."""
        for file in deleted:
            self.bytes[file.kind] -= file.size
        self._leave_out({file.name for file in files})

    def _leave_out(self, names: Collection[str]) -> None:
        for kind, files in self.finished.items():
            self.finished[kind] = [file for file in files if file.name not in names]

    def _list(self) -> None:
        before, self._names = self._names, {}
        finished: list[StoredFile] = []
        ends_s: list[int] = []
        total_bytes, index_bytes = dict.fromkeys(FileKind, 0), 0
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
                total_bytes[name.kind] += size
                if not name.is_open and text not in self.held:
                    finished.append(StoredFile(name.end_s, text, size, name.kind))
        finished.sort()
        self.finished = {kind: [file for file in finished if file.kind == kind] for kind in FileKind}
        self.ends_s = np.sort(np.array(ends_s, np.float64))
        self.bytes, self.index_bytes = total_bytes, index_bytes
