"""Brings the index into agreement with the evidence files. Runs with the evidence writer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from sensor.errors import EvidenceError
from sensor.evidence.day_writer import DayWriter, Gap, Located
from sensor.evidence.evidence_file import evidence_sizes
from sensor.evidence.index_schema import Day, day_of
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.pcap import first_record
from sensor.model import Evidence

log = logging.getLogger(__name__)


def reconcile(index: IndexWriter, open_files: Collection[str]) -> list[tuple[Day, Gap]]:
    """Compare the databases with the finished files; return the gaps, the newest first.

    Rows without a record, because their file is gone or was cut, are removed. Records without rows become a
    gap. Files in ``open_files`` (final names) are not compared, because their writer adds their rows; only
    their existing gaps are returned. If the directory cannot be read, the index is left as it is and
    ``index.is_behind`` stays set.
    """
    try:
        found = evidence_sizes(index.directory)
    except EvidenceError as error:  # the files need not be gone
        log.warning("%s; the index was not compared with the files", error)
        return []
    index.is_behind = False
    sizes = {name: size for name, (size, is_open) in found.items() if not is_open}
    unknown = sizes.keys() - set(open_files)
    for day in index.days():
        unknown.difference_update(*index.change(day, _match_sizes, sizes, open_files))
        index.untidy.add(day)
    for name in sorted(unknown):
        _add_unknown_file(index, name, sizes[name])
    return [
        (day, gap)
        for day in reversed(index.days())
        for gaps in index.change(day, DayWriter.gaps)
        for gap in gaps
    ]


def _match_sizes(database: DayWriter, sizes: Mapping[str, int], open_files: Collection[str]) -> Iterable[str]:
    """Update a database to match the sizes of the files it knows; return their names."""
    files = database.files()
    for name, end in files.items():
        if name in open_files:
            continue
        if name not in sizes:
            database.forget(name)
        elif sizes[name] < end:
            database.cut(name, sizes[name])
        elif sizes[name] > end:
            database.add_gap(name, sizes[name])
    return files


def _add_unknown_file(index: IndexWriter, name: str, size: int) -> None:
    """Add a file that no database knows as one gap, to the database of its first record's day."""
    try:
        linktype, time_us = first_record(index.directory / name)
    except EvidenceError as error:
        log.warning("%s; the file is not indexed", error)
        return
    index.change(day_of(time_us), DayWriter.add_gap, name, size, linktype)


def fill(index: IndexWriter, day: Day, gap: Gap, located: Located, rest: int) -> bool:
    """Add rows for the first records of a gap, which then starts at offset ``rest``.

    Returns False if the rows cannot be written now. The gap is then unchanged and can be filled later.
    """
    days: dict[Day, list[tuple[int, Evidence]]] = {}
    for offset, item in located:
        days.setdefault(day_of(item.timestamp_ns // 1000), []).append((offset, item))
    own = days.pop(day, [])
    # If files are named in local time, a file at the end of summer time can have records of two days.
    strays = [index.change(other, DayWriter.add_strays, gap.name, some) for other, some in days.items()]
    is_filled = all(strays) and bool(index.change(day, DayWriter.fill, gap, own, rest))
    if is_filled:
        index.rows += len(located)
    return is_filled
