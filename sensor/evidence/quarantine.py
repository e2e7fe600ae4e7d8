"""The quarantine: frames that workers died of, each in a capture file of its own, for a bug report.

Runs in the supervisor. The files are in ``<evidence directory>/<devid>/quarantine``. They are no evidence:
nothing indexes them, and no limit deletes them. Their number is bounded instead; once the directory is full,
later frames are counted but not kept.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from sensor.evidence.pcap import file_header, record_header
from sensor.model import LinkType

NAME = "quarantine"
MOST_FILES = 100

_MOST_US = 1_000_000 << 32
"""The time of a record has 32 bits for the seconds."""

log = logging.getLogger(__name__)


class QuarantinedFrame(NamedTuple):
    """A frame that workers died of. What it says about itself may be wrong."""

    data: bytes
    wirelen: int
    time_ns: int
    """Nanoseconds since the epoch."""
    linktype: int = LinkType.ETHERNET


class Quarantine:
    """Keeps frames in the quarantine of one device."""

    def __init__(self, device_directory: Path) -> None:
        self.directory = device_directory / NAME

    def keep(self, frame: QuarantinedFrame) -> None:
        """Write the frame to a file; the log says where, or why not. No error is raised."""
        try:
            path = self._write(frame)
        except OSError as error:
            log.error("cannot keep a frame in %s: %s", self.directory, error.strerror)  # noqa: TRY400
            return
        if path is None:
            log.error(
                "%s has %d frames, so that this one is not kept; report the bug, then move them elsewhere",
                self.directory,
                MOST_FILES,
            )
        else:
            log.error("please report this bug with %s; to see it again: sensor read %s", path, path)

    def _write(self, frame: QuarantinedFrame) -> Path | None:
        """Write the file and return its path; return None if there are too many."""
        self.directory.mkdir(mode=0o750, exist_ok=True)
        directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if len(os.listdir(directory_fd)) >= MOST_FILES:  # noqa: PTH208 - of a descriptor
                return None
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.pcap"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(name, flags, mode=0o640, dir_fd=directory_fd), "wb") as file:
                    file.write(_capture(frame))
            except OSError:
                with suppress(OSError):  # half a file is of no use
                    os.unlink(name, dir_fd=directory_fd)
                raise
        finally:
            os.close(directory_fd)
        return self.directory / name


def _capture(frame: QuarantinedFrame) -> bytes:
    """Return the frame as a capture file."""
    time_us = frame.time_ns // 1000
    if not 0 <= time_us < _MOST_US:
        time_us = time.time_ns() // 1000
    wirelen = max(frame.wirelen, len(frame.data))
    return file_header(frame.linktype) + record_header(time_us, len(frame.data), wirelen) + frame.data
