"""What the files have and the index does not, and the other way around. Runs with the evidence writer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from sensor.errors import EvidenceError
from sensor.evidence.day_writer import DayWriter, Gap
from sensor.evidence.evidence_file import evidence_sizes
from sensor.evidence.index_schema import Day, day_of
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.pcap import first_record
from sensor.model import Evidence

log = logging.getLogger(__name__)

Located = Sequence[tuple[int, Evidence]]
"""Evidence, each with the offset of its record."""


def reconcile(index: IndexWriter, open_files: Collection[str]) -> list[tuple[Day, Gap]]:
    """Compare the databases with the finished files; return the gaps that there are, the newest first.

    Rows whose file is gone or was cut are taken back; what has no rows becomes a gap. Files that are
    open again (their final names) are left to their writer, but for their gaps. The index stays behind
    where the directory cannot be read.
    """
    try:
        found = evidence_sizes(index.directory)
    except EvidenceError as error:  # no reason to take the files for gone
        log.warning("%s; the index is not compared with it", error)
        return []
    index.is_behind = False
    sizes = {name: size for name, (size, is_open) in found.items() if not is_open}
    unknown = sizes.keys() - set(open_files)
    for day in index.days():
        unknown.difference_update(*index.change(day, _compare, sizes, open_files))
        index.untidy.add(day)
    for name in sorted(unknown):
        _add_unknown(index, name, sizes[name])
    return [
        (day, gap)
        for day in reversed(index.days())
        for gaps in index.change(day, DayWriter.gaps)
        for gap in gaps
    ]


def _compare(database: DayWriter, sizes: Mapping[str, int], open_files: Collection[str]) -> Iterable[str]:
    """Make one database agree with the files that it knows; return their names."""
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


def _add_unknown(index: IndexWriter, name: str, size: int) -> None:
    """Make a gap of a whole file that no database knows; it belongs to the day of its first record."""
    try:
        linktype, time_us = first_record(index.directory / name)
    except EvidenceError as error:
        log.warning("%s; it is not indexed", error)
        return
    index.change(day_of(time_us), DayWriter.add_gap, name, size, linktype)


def fill(index: IndexWriter, day: Day, gap: Gap, located: Located, rest: int) -> bool:
    """Make rows for the first records of a gap, of which the part from offset ``rest`` on is left.

    Returns False where that cannot be written now; the gap is then as it was, and can be filled again.
    """
    days: dict[Day, list[tuple[int, Evidence]]] = {}
    for offset, item in located:
        days.setdefault(day_of(item.timestamp_ns // 1000), []).append((offset, item))
    own = days.pop(day, [])
    # In local time, at the end of summer time, a file may have records of two days.
    strays = [index.change(other, DayWriter.add_strays, gap.name, some) for other, some in days.items()]
    is_filled = all(strays) and bool(index.change(day, DayWriter.fill, gap, own, rest))
    if is_filled:
        index.rows += len(located)
    return is_filled
