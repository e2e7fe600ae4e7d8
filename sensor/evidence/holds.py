"""Holds: files of evidence that no limit deletes, until they are released.

A journal in the directory of the device, ``holds.jsonl``, has a line for each hold and each release, with who
did it and why. It is the audit, survives the index, and is only ever appended to. Written by ``sensor
evidence hold`` and ``release``; read where evidence is deleted.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from sensor.evidence.journal import MOST_BYTES, append_line
from sensor.process.regular_file import open_regular

JOURNAL = "holds.jsonl"


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
    os.close(open_regular(directory / JOURNAL, os.O_RDWR | os.O_CREAT))


def append_entry(directory: Path, entry: HoldEntry) -> None:
    """Append a line; when this returns, no file of a hold will be deleted that is there now.

    Raises:
        OSError: it cannot be written.
    """
    append_line(directory / JOURNAL, entry._asdict(), is_flushed=True)


@contextmanager
def reading_holds(directory: Path, *, locked: bool = True) -> Iterator[dict[str, HoldEntry]]:
    """Provide the holds in force, by name, and keep others from being added meanwhile.

    Without ``locked``, the lock of who adds one is ignored.

    Raises:
        BlockingIOError: one is being added right now.
        OSError: the journal cannot be read.
    """
    try:
        descriptor = open_regular(directory / JOURNAL, os.O_RDONLY)
    except FileNotFoundError:
        yield {}
        return
    with os.fdopen(descriptor, "rb") as journal:
        if locked:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield _in_force(journal.read(MOST_BYTES).splitlines())


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
