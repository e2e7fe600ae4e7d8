"""A journal: a file of JSON lines that is only ever appended to. Runs in the commands and the supervisor."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

from sensor.process.regular_file import open_regular

MOST_BYTES = 256 << 20
"""Bytes of a journal that are read."""


def append_line(path: Path, entry: Mapping[str, object], *, is_flushed: bool = False) -> None:
    """Append an entry, after the line of a process that was killed while it wrote it, if there is one.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        is_torn = bool(size) and os.pread(descriptor, 1, size - 1) != b"\n"
        line = b"\n" * is_torn + json.dumps(entry).encode("ascii") + b"\n"
        while line:
            line = line[os.write(descriptor, line) :]
        if is_flushed:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
