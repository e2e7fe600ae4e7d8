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
from sensor.process.regular_file import identity, open_regular

_NAME, _INDEX_NAME = ".lock", ".index.lock"
_PID_BYTES = 20


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


def holds_lock(directory: Path, descriptor: int) -> bool:
    """Return True if the descriptor of a lock still is that of the directory's lock file."""
    return identity(descriptor) == identity(directory / _NAME)


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
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise BlockingIOError(error.errno, f"process {holder}" if holder else "another process") from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def writing_process(directory: Path, devid: int) -> int | None:
    """Return the id of the process that writes evidence under ``directory/devid``; None if there is none.

    Raises:
        OSError: the lock file cannot be read.
    """
    try:
        descriptor = open_regular(directory / str(devid) / _NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(descriptor)
        if holder is None:
            raise OSError(error.errno, "its lock file names no process") from error
        return holder
    finally:
        os.close(descriptor)
    return None


def _holder(descriptor: int) -> int | None:
    """Return the process id in a lock file; None if it has none."""
    text = os.pread(descriptor, _PID_BYTES, 0).strip()
    return int(text) if text.isdigit() else None
