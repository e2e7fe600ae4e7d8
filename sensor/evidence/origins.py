"""Origins: the capture files that evidence was read from, and where in the evidence files it is.

A journal in the directory of the device, ``captures.jsonl``, survives the index and retention. It is written
by ``sensor read``, and by the next process that writes evidence if that was killed; read by ``sensor
evidence show``. A capture file goes to *segments* of evidence files, one or more per file. The line that
begins a segment is there before its first record is.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from sensor.errors import EvidenceError
from sensor.evidence.evidence_file import evidence_sizes
from sensor.evidence.file_name import parse_name
from sensor.evidence.journal import MOST_BYTES, append_line
from sensor.evidence.pcap import FILE_HEADER_BYTES
from sensor.files.content_digest import Content
from sensor.process.regular_file import open_regular

CAPTURES = "captures.jsonl"


class OriginEntry(NamedTuple):
    """A line of the journal."""

    time: str
    """ISO 8601, UTC."""
    action: Literal["begin", "segment", "end"]
    capture: str
    """Name of the reading of a capture file."""
    path: str = ""
    """Path of the file (begin)."""
    file: str = ""
    """Final name of an evidence file (segment)."""
    offset: int = 0
    """The beginning of its segment."""
    ends: tuple[tuple[str, int], ...] = ()
    """The ends of the segments, as names of evidence files and offsets (end)."""
    settings: str = ""
    """Digest of what decides which frames match (begin)."""
    is_done: bool = False
    """True if the file was read to its end, or as far as it can be read, and all was written (end)."""
    size: int = 0
    sha256: str = ""
    beginnings: tuple[str, ...] = ()
    """`Content` of the file (end; and begin, if it was known then)."""


_ENTRY = TypeAdapter(OriginEntry)


@dataclass
class Segment:
    """Consecutive records of an evidence file that come from one capture file."""

    origin: CaptureOrigin
    file: str
    start: int
    end: int | None = None
    """None while it is being written, or if its writer was killed."""


@dataclass
class CaptureOrigin:
    """A reading of a capture file."""

    name: str
    path: str
    time: str
    settings: str
    content: Content = field(default_factory=Content)
    is_open: bool = True
    is_done: bool = False
    is_lost: bool = False
    """True if some of its evidence was deleted."""
    segments: list[Segment] = field(default_factory=list)


class Origins:
    """The journal of one device.

    Raises:
        EvidenceError: it cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.all: dict[str, CaptureOrigin] = {}
        """By name, in the order of reading."""
        self._segments: defaultdict[str, list[Segment]] = defaultdict(list)
        path = directory / CAPTURES
        try:
            with suppress(FileNotFoundError), os.fdopen(open_regular(path, os.O_RDONLY), "rb") as journal:
                for line in journal.read(MOST_BYTES).splitlines():
                    with suppress(ValidationError):  # torn
                        self._apply(_ENTRY.validate_json(line))
        except OSError as error:
            raise EvidenceError(f"{path}: {error.strerror}; move it away, or make it readable") from error

    def append(self, entry: OriginEntry) -> None:
        """Add a line to the journal.

        Raises:
            OSError: it cannot be written.
        """
        defaults = OriginEntry._field_defaults
        line = {name: value for name, value in entry._asdict().items() if value != defaults.get(name)}
        append_line(self.directory / CAPTURES, line)
        self._apply(entry)

    def _apply(self, entry: OriginEntry) -> None:
        if entry.action == "begin":
            self.all[entry.capture] = CaptureOrigin(entry.capture, entry.path, entry.time, entry.settings)
        origin = self.all.get(entry.capture)
        if origin is None:
            return
        if entry.sha256:
            origin.content = Content(entry.size, entry.sha256, entry.beginnings)
        if entry.action == "segment" and parse_name(entry.file):
            self._begin_segment(Segment(origin, entry.file, entry.offset))
        elif entry.action == "end":
            origin.is_open, origin.is_done = False, entry.is_done
            ends = dict(entry.ends)
            for segment in origin.segments:
                if segment.end is None:
                    segment.end = max(segment.start, ends.get(segment.file, 0))

    def _begin_segment(self, new: Segment) -> None:
        others = self._segments[new.file]
        if new.start == FILE_HEADER_BYTES:  # a new file: those of an earlier one with this name are gone
            for other in others:
                other.origin.is_lost |= other.end != other.start
                other.origin.segments.remove(other)
            others.clear()
        elif others and others[-1].end is None:
            others[-1].end = new.start
        others.append(new)
        new.origin.segments.append(new)

    def close(self) -> None:
        """Note where the segments end that a killed process began.

        Must be called before anything else is appended to their files.

        Raises:
            EvidenceError: the directory cannot be read.
            OSError: the journal cannot be written.
        """
        unfinished = [origin for origin in self.all.values() if origin.is_open]
        sizes = evidence_sizes(self.directory) if unfinished else {}
        for origin in unfinished:
            names = {one.file for one in origin.segments}
            ends = tuple((name, sizes[name][0]) for name in sorted(names & sizes.keys()))
            self.append(OriginEntry(origin.time, "end", origin.name, ends=ends))

    def find(self, file: str, offset: int) -> CaptureOrigin | None:
        """Return the capture file that a record came from; None if it came from the network."""
        for segment in self._segments.get(file, ()):
            if segment.start <= offset and (segment.end is None or offset < segment.end):
                return segment.origin
        return None

    def is_intact(self, origin: CaptureOrigin) -> bool:
        """Return True if all evidence that came from a capture file is still there."""
        return not origin.is_lost and all(
            segment.end is not None and _size(self.directory / segment.file) >= segment.end
            for segment in origin.segments
            if segment.end != segment.start
        )


def _size(path: Path) -> int:
    """Return the size of an evidence file, open or finished; 0 if there is none."""
    for name in (path, path.with_name(f"{path.name}.temp")):
        with suppress(OSError):
            return name.lstat().st_size
    return 0
