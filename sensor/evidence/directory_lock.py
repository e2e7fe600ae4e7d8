"""The lock of a device directory, which allows one writer at a time. Runs with the evidence writer.

Other commands use it to find the process that writes evidence.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sensor.errors import EvidenceError

_NAME = ".lock"


def lock_directory(directory: Path) -> int:
    """Lock a device directory and return the descriptor that holds the lock.

    The lock file contains the process id of its holder.

    Raises:
        EvidenceError: another process has the lock.
        OSError: the lock file cannot be created or opened.
    """
    descriptor = os.open(directory / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode=0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode().strip()
        os.close(descriptor)
        raise EvidenceError(
            f"process {holder} already writes evidence to {directory};"
            " stop it, or use another --devid or --evidence"
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def writing_process(directory: Path, devid: int) -> int | None:
    """Return the id of the process that writes evidence under ``directory/devid``; None if there is none."""
    path = directory / str(devid) / _NAME
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(path.read_text())
    except FileNotFoundError:
        return None
    return None
