"""Opening what receivers name by a path: files of events, certificates, unix sockets.

Runs in the event sender, in the supervisor when it checks the receivers, and in the process that opens files
for the sender (`sensor.process.opener`).
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from sensor.process.regular_file import open_regular

Operation = Literal["append", "rotate", "read", "connect"]


class Grant(NamedTuple):
    """A permission to do something with a path."""

    operation: Operation
    path: Path
    keep: int = 0
    """Rotated files that are kept."""
    rotate_bytes: int = 0
    """A smaller file is not rotated."""


class Files:
    """Opens paths with the rights of this process."""

    def append(self, path: Path) -> int:
        """Return the descriptor of a regular file that is written at its end, created if there is none."""
        return open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def rotate(self, path: Path, keep: int) -> None:
        """Rename ``eve.json`` to ``eve.json.1`` and so on; the oldest file is overwritten."""
        names = [path, *(Path(f"{path}.{number}") for number in range(1, keep + 1))]
        for newer, older in reversed(list(pairwise(names))):
            with suppress(FileNotFoundError):
                newer.replace(older)

    def read(self, path: Path) -> int:
        """Return the descriptor of a file that is read."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def connect(self, path: Path) -> socket.socket:
        """Return a socket that is connected to a unix socket, of the listener's type."""
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            connection = socket.socket(socket.AF_UNIX, kind)
            try:
                connection.setblocking(False)  # EAGAIN while the listener accepts nothing
                connection.connect(str(path))
                connection.setblocking(True)
            except OSError as error:
                connection.close()
                if error.errno != errno.EPROTOTYPE or kind == socket.SOCK_DGRAM:
                    raise
            else:
                break
        return connection
