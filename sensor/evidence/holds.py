"""Holds: files of evidence that no limit deletes, until they are released.

A journal in the directory of the device, ``holds.jsonl``, has a line for each hold and each release, with who
did it and why. It is the audit, survives the index, and is only ever appended to. Written by ``sensor
evidence hold`` and ``release``; read where evidence is deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

JOURNAL = "holds.jsonl"
_MOST_BYTES = 256 << 20


class HoldEntry(NamedTuple):
    """A line of the journal."""

    time: str
    """ISO 8601, UTC."""
    action: Literal["hold", "release"]
    hold: str
    """Name of the hold."""
    by: str
    """The user who did it."""
    reason: str
    query: str = ""
    """The evidence that was asked for."""
    files: tuple[str, ...] = ()
    """Names of the files that have it."""


_ENTRY = TypeAdapter(HoldEntry)


def create_journal(directory: Path) -> None:
    """Create the journal of a device, if there is none.

    Raises:
        OSError: it cannot be created, or something else has its name.
    """
    os.close(_open(directory, os.O_RDWR | os.O_CREAT))


def append_entry(directory: Path, entry: HoldEntry) -> None:
    """Append a line; when this returns, no file of a hold will be deleted that is there now.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = _open(directory, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        is_torn = bool(size) and os.pread(descriptor, 1, size - 1) != b"\n"  # of a process that was killed
        line = b"\n" * is_torn + json.dumps(entry._asdict()).encode("ascii") + b"\n"
        while line:
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reading_holds(directory: Path, *, locked: bool = True) -> Iterator[dict[str, HoldEntry]]:
    """Provide the holds in force, by name, and keep others from being added meanwhile.

    Without ``locked``, the lock of who adds one is ignored.

    Raises:
        BlockingIOError: one is being added right now.
        OSError: the journal cannot be read.
    """
    try:
        descriptor = _open(directory, os.O_RDONLY)
    except FileNotFoundError:
        yield {}
        return
    with os.fdopen(descriptor, "rb") as journal:
        if locked:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield _in_force(journal.read(_MOST_BYTES).splitlines())


def _in_force(lines: Sequence[bytes]) -> dict[str, HoldEntry]:
    holds: dict[str, HoldEntry] = {}
    for line in lines:
        try:
            entry = _ENTRY.validate_json(line)
        except ValidationError:  # torn: whoever wrote it was not told that it is there
            continue
        if entry.action == "hold":
            holds[entry.hold] = entry
        else:
            holds.pop(entry.hold, None)
    return holds


def _open(directory: Path, flags: int) -> int:
    """Open the journal; nothing but a regular file is opened.

    Raises:
        OSError: it cannot be opened.
    """
    path = directory / JOURNAL
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode=0o640)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "is not a regular file", str(path))
    return descriptor
