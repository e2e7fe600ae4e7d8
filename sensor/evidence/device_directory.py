"""The evidence directory of one device, locked for the process that writes it.

Runs in the supervisor, ``sensor read`` and ``sensor evidence reindex``.
"""

from __future__ import annotations

import os
from pathlib import Path

from sensor.errors import EvidenceError
from sensor.evidence.directory_lock import lock_directory
from sensor.evidence.recovery import Recovery, recover


class DeviceDirectory:
    """The directory ``directory/devid``, created if it does not exist; a lock keeps a second writer out.

    Creates directories with mode 0750, subject to the umask, and finishes the files that a killed writer
    left open.

    Raises:
        EvidenceError: the directory cannot be written, or another process already writes there.
    """

    def __init__(self, directory: Path, devid: int) -> None:
        self.path = directory / str(devid)
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self.path.mkdir(mode=0o750, exist_ok=True)
            self._lock = lock_directory(self.path)
            self.recovered: list[Recovery] = recover(self.path)
            """Files that the last run left open; the caller logs one line for each."""
        except OSError as error:
            raise EvidenceError(
                f"cannot write evidence to {self.path}: {error.strerror};"
                " make it writable, or choose another directory with --evidence"
            ) from error

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)
