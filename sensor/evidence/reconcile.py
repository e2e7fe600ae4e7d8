"""Brings the index into agreement with the evidence files. Runs with the evidence writer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from sensor.errors import EvidenceError
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.day_writer import DayWriter, Gap
from sensor.evidence.evidence_file import evidence_sizes
from sensor.evidence.index_schema import DAY_US, Day, day_of
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.pcap import first_record

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


def fill(
    index: IndexWriter, day: Day, gap: Gap, offsets: NDArray[np.int64], block: EvidenceBlock, rest: int
) -> bool:
    """Add rows for the first records of a gap, which then starts at offset ``rest``.

    ``offsets`` are the offsets of the block's records in the file. Returns False if the rows cannot be
    written now. The gap is then unchanged and can be filled later.
    """
    days = block.items["time_ns"] // (DAY_US * 1000)
    own = days == day.start_us // DAY_US
    strays: list[object] = []
    # If files are named in local time, a file at the end of summer time can have records of two days.
    for number in np.unique(days[~own]).tolist():
        chosen = days == number
        strays.append(
            index.change(
                day_of(number * DAY_US), DayWriter.add_strays, gap.name, offsets[chosen], block.select(chosen)
            )
        )
    is_filled = all(strays) and bool(
        index.change(day, DayWriter.fill, gap, offsets[own], block.select(own), rest)
    )
    if is_filled:
        index.rows += len(block)
    return is_filled
