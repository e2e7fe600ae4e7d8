"""The locks of a device directory: one writer of evidence, and one of the index, at a time.

Runs in the processes that write. Other commands use the first lock to find the process that writes evidence.
The index has a lock of its own because another process may write it: if a sensor is killed and started again
at once, that process can still be ending.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sensor.errors import EvidenceError

_NAME, _INDEX_NAME = ".lock", ".index.lock"


def lock_directory(directory: Path) -> int:
    """Lock a device directory and return the descriptor that holds the lock.

    The lock file contains the process id of its holder.

    Raises:
        EvidenceError: another process has the lock.
        OSError: the lock file cannot be created or opened.
    """
    try:
        return _lock(directory / _NAME)
    except BlockingIOError as error:
        raise EvidenceError(
            f"{error.strerror} already writes evidence to {directory};"
            " stop it, or use another --devid or --evidence"
        ) from error


def lock_index(directory: Path) -> int:
    """Lock the index of a device directory and return the descriptor that holds the lock.

    Raises:
        OSError: another process has the lock, or the lock file cannot be created or opened.
    """
    try:
        return _lock(directory / _INDEX_NAME)
    except BlockingIOError as error:
        raise OSError(error.errno, f"{error.strerror} still writes the index") from error


def _lock(path: Path) -> int:
    """Lock a file, and write our process id into it; return its descriptor.

    Raises:
        BlockingIOError: another process has the lock; its text is "process 123".
        OSError: the file cannot be created or opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode=0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode().strip()
        os.close(descriptor)
        raise BlockingIOError(error.errno, f"process {holder}") from error
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
