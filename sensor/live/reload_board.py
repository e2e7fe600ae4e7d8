"""The outcome of reloads, for ``sensor rules reload``: a small file in the directory of the evidence.

The supervisor writes it, and the command reads it. The file has its full size from the start, and is written
in place, so that a disk that fills up does not matter.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sensor.process.regular_file import open_regular

NAME = ".reload"
SIZE = 4096
_MOST_TEXT = 2500
"""Characters of the outcome; in JSON a few may need more than one byte."""

log = logging.getLogger(__name__)


class ReloadState(NamedTuple):
    """The outcome of requests to reload the rules."""

    process: int = 0
    """The sensor's process id."""
    begun: int = 0
    """Number of loads that were begun."""
    ended: int = 0
    """Number of loads that have ended."""
    exit_code: int = 0
    """The exit code of a command that asked for the last load that ended."""
    text: str = ""
    """The outcome of that load."""
    progress: str = ""
    """The work that is under way."""
    beat: int = 0
    """Another number each time the supervisor looks at a load that is under way."""


class ReloadBoard:
    """The file, as the supervisor writes it."""

    def __init__(self, directory: Path) -> None:
        """Create it anew in the directory of the device; if that fails, commands get no outcome."""
        self._descriptor: int | None = None
        path = directory / NAME
        try:
            with suppress(FileNotFoundError):
                path.unlink()
            # Whoever can write there may have put a link in its place meanwhile.
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, mode=0o640)
        except OSError as error:
            log.warning("%s: sensor rules reload cannot show its outcome: %s", path, error.strerror)

    def show(self, state: ReloadState) -> None:
        """Write the state."""
        if self._descriptor is not None:
            state = state._replace(text=_shortened(state.text))
            content = json.dumps(state).encode("ascii")
            if len(content) > SIZE:
                content = json.dumps(state._replace(text="see the log of the sensor")).encode("ascii")
            with suppress(OSError):  # the log has the outcome as well
                os.pwrite(self._descriptor, content.ljust(SIZE), 0)

    def close(self) -> None:
        """Close the file; it stays, with the last outcome."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_reload_state(directory: Path, process: int) -> ReloadState | None:
    """Return the state that a sensor shows; None if there is none of this process.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        descriptor = open_regular(directory / NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        content = os.pread(descriptor, SIZE, 0)
    finally:
        os.close(descriptor)
    try:
        values = json.loads(content)
    except ValueError:  # it is just being written
        return None
    kinds = [int, int, int, int, str, str, int]
    if not isinstance(values, list) or list(map(type, values)) != kinds or values[0] != process:
        return None
    return ReloadState(*values)


def _shortened(text: str) -> str:
    """Return a text without the lines that are too many."""
    if len(text) <= _MOST_TEXT:
        return text
    kept = text[:_MOST_TEXT].rpartition("\n")[0] or text[:_MOST_TEXT]
    return f"{kept}\n… and more; to see all: sensor rules check"
