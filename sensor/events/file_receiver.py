"""Events in a file, a line each, as Suricata's ``eve.json``: rotated by size, and opened anew for logrotate.

Runs in the sender.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from itertools import pairwise
from pathlib import Path

from sensor.events.eve import Event
from sensor.events.receiver import Receiver


class FileReceiver(Receiver):
    """Appends whole lines; what a full disk takes only part of is cut off again."""

    reopens = True

    def __init__(self, path: Path, size: int, keep: int) -> None:
        """Rotate before the file is larger than ``size`` bytes (0: never); keep so many old ones."""
        self._path = path
        self._size = size
        self._keep = keep
        self._descriptor: int | None = None

    def check(self) -> None:
        """Open it once, or see whether it could be made: it would belong to who looks, not to who writes."""
        if self._path.exists():
            self.open()
            self.close()
            return
        directory = self._path.parent
        if not stat.S_ISDIR(directory.stat().st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(directory))

    def open(self) -> None:
        """Create it, readable by its group, or go on at its end."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # for a FIFO: refused
        descriptor = os.open(self._path, flags, mode=0o640)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is no file", str(self._path))
        self._descriptor = descriptor

    def send(self, event: Event) -> None:
        """Append a line, or nothing."""
        line = event.line + b"\n"
        descriptor, end = self._room_for(len(line))
        done = 0
        try:
            while done < len(line):
                done += os.write(descriptor, line[done:])
        except OSError as error:
            if done:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, end)
            error.filename = str(self._path)
            raise

    def _room_for(self, size: int) -> tuple[int, int]:
        """Return the descriptor to write to, and where the file ends: others may have emptied it."""
        assert self._descriptor is not None  # noqa: S101 - it is open
        end = os.fstat(self._descriptor).st_size
        if self._size and end and end + size > self._size:
            self._rotate()
            self.close()
            self.open()
            end = os.fstat(self._descriptor).st_size
        return self._descriptor, end

    def _rotate(self) -> None:
        """Make ``eve.json`` ``eve.json.1``, and so on; the oldest is overwritten."""
        names = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, self._keep + 1))]
        for newer, older in reversed(list(pairwise(names))):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)

    def close(self) -> None:
        """Close it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
