"""The names of evidence files. Used where evidence is written, read or deleted.

``YYYYMMDDHHMM.pcap`` is named after the time of its packets, in UTC unless local time is set, with the minute
rounded down to a multiple of five. Threat evidence, context, other link types than Ethernet, and second
files of a window have a suffix before ``.pcap``; an open file has ``.temp`` after it. A name that is no real
time is not that of evidence.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from sensor.model import LinkType

WINDOW_S = 300
"""Packet time that one file covers, in seconds."""

_NAME = re.compile(
    r"(?P<day>\d{8})(?P<hour>[01]\d|2[0-3])(?P<minute>[0-5][05])"
    r"(?P<kind>-context|-threat)?(?:-linktype(?P<linktype>\d{1,5}))?(?:-\d{1,9})?\.pcap(?P<temp>\.temp)?",
    re.ASCII,
)
_YEARS = range(1969, 2107)
"""Years of the seconds that a pcap record can hold, in any time zone."""


class FileKind(IntEnum):
    """The evidence in a file; when space is short, files of a lower kind are deleted first."""

    CONTEXT = 0
    """Frames that are kept because of a match of another one of their flow."""
    OTHER = 1
    THREAT = 2
    """Frames that match a threat rule."""


_SUFFIXES = {FileKind.CONTEXT: "-context", FileKind.OTHER: "", FileKind.THREAT: "-threat"}
_KINDS = {suffix: kind for kind, suffix in _SUFFIXES.items()}


class FileName(NamedTuple):
    """The fields in the name of an evidence file."""

    start_s: int
    """Start of the file's five minutes in seconds since the epoch; local time is taken for UTC."""
    linktype: int
    kind: FileKind
    is_open: bool

    @property
    def end_s(self) -> int:
        """End of the file's five minutes."""
        return self.start_s + WINDOW_S


def file_stem(window_s: int, linktype: int, *, local_time: bool, kind: FileKind = FileKind.OTHER) -> str:
    """Return the file name without suffix for a window that starts at a multiple of 300 s since the epoch.

    In local time, the hour before and the hour after the end of summer time share their names and files.
    """
    start = datetime.fromtimestamp(window_s, tz=None if local_time else UTC)
    stem = f"{start:%Y%m%d%H}{start.minute // 5 * 5:02}"
    stem += _SUFFIXES[kind]
    return stem if linktype == LinkType.ETHERNET else f"{stem}-linktype{linktype}"


def parse_name(name: str) -> FileName | None:
    """Return the fields in the name of an evidence file; None if it is not the name of one."""
    found = _NAME.fullmatch(name)
    day_s = found and _day_s(found["day"])
    if not found or day_s is None:
        return None
    start_s = day_s + int(found["hour"]) * 3600 + int(found["minute"]) * 60
    linktype = int(found["linktype"] or LinkType.ETHERNET)
    return FileName(start_s, linktype, _KINDS[found["kind"] or ""], found["temp"] is not None)


@lru_cache(maxsize=4096)  # most names of a directory share their day with many others
def _day_s(day: str) -> int | None:
    """Return the start of a day, YYYYMMDD, in seconds since the epoch; None if there is no such day."""
    year, month, day_of_month = int(day[:4]), int(day[4:6]), int(day[6:])
    if year not in _YEARS:
        return None
    try:
        return int(datetime(year, month, day_of_month, tzinfo=UTC).timestamp())
    except ValueError:
        return None
