"""A file of events like Suricata's ``eve.json``: one event per line, rotated by size or by logrotate.

Runs in the event sender.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from pathlib import Path

from sensor.events.eve import Event
from sensor.events.receiver import Receiver, ReplacedError
from sensor.process.granted_paths import Grant
from sensor.process.regular_file import identity

LOOK_S = 1.0
"""Period of comparing the file with its name."""


class FileReceiver(Receiver):
    """A file that gets whole lines only: a line that a full disk cuts short is removed again."""

    reopens = True

    def __init__(self, path: Path, size: int, keep: int) -> None:
        """Rotate before the file exceeds ``size`` bytes (0: never), and keep ``keep`` old files."""
        self._path = path
        self._size = size
        self._keep = keep
        self._descriptor: int | None = None
        self._looked_s = 0.0

    def check(self) -> None:
        """Open the file once or, if there is none, check its directory.

        The check creates no file, which could belong to another user than the sender's.
        """
        if os.path.lexists(self._path):
            self.open()
            self.close()
            return
        directory = self._path.parent
        if not stat.S_ISDIR(directory.stat().st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(directory))

    def grants(self) -> list[Grant]:
        """Return what the receiver does with its file."""
        return [
            Grant("append", self._path),
            Grant("rotate", self._path, self._keep, self._size // 2),
        ]

    def open(self) -> None:
        """Create the file, readable by its group, or append to it."""
        self._descriptor = self.files.append(self._path)
        self._looked_s = time.monotonic()

    def send(self, event: Event) -> None:
        """Append one line, or nothing."""
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
        """Return the descriptor and the end of the file, which another program may have truncated."""
        assert self._descriptor is not None  # noqa: S101 - it is open
        status = os.fstat(self._descriptor)
        if not status.st_nlink:
            raise ReplacedError(errno.ESTALE, "the file was removed")
        if time.monotonic() - self._looked_s >= LOOK_S:
            self.watch()
        end = status.st_size
        if self._size and end and end + size > self._size:
            self.files.rotate(self._path, self._keep)
            self.close()
            self.open()
            end = os.fstat(self._descriptor).st_size
        return self._descriptor, end

    def watch(self) -> None:
        """Compare the file with its name, which logrotate may give to another one."""
        assert self._descriptor is not None  # noqa: S101 - it is open
        present = self.files.append(self._path)
        try:
            if identity(present) != identity(self._descriptor):
                raise ReplacedError(errno.ESTALE, "the file was removed, renamed or replaced")
        finally:
            os.close(present)
        self._looked_s = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
