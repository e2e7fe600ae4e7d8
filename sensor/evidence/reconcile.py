"""Brings the index into agreement with the evidence files. Runs where the index is written.

The files may change meanwhile, if another process writes them. Then rows are on their way when their file is
already seen. So `compare` can be suspended, and leaves out every file whose rows have changed since it began.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.errors import EvidenceError
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.day_writer import DayWriter, Gap
from sensor.evidence.evidence_file import evidence_sizes, is_gone
from sensor.evidence.file_name import FileKind, parse_name
from sensor.evidence.index_schema import DAY_US, Day, day_of
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.pcap import first_record
from sensor.model import Role

FILL_ITEMS = 512
FILL_BYTES = 4 << 20
"""Records that `fill` adds rows for at once: up to the first that reaches one of these limits."""

Gaps = list[tuple[Day, Gap]]

log = logging.getLogger(__name__)


def reconcile(index: IndexWriter) -> Gaps:
    """Compare the index with the files in one go, while nobody writes them; return the gaps as `compare`."""
    index.commit()
    steps = compare(index)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            gaps: Gaps = end.value
            return gaps


def compare(index: IndexWriter) -> Generator[None, None, Gaps]:
    """Compare the databases with the finished files, step by step; return the gaps, the newest first.

    Rows without a record, because their file is gone or was cut, are removed. Records without rows become a
    gap. Open files, and those whose rows change meanwhile, are not compared: `IndexWriter.finish` is called
    for them. Only their existing gaps are returned. If the directory cannot be read, the index is left as it
    is and ``index.is_behind`` stays set.

    After the first step, the caller must add all rows that were on their way when that step ended.
    """
    index.touched = touched = index.waiting_files
    try:
        return (yield from _compare(index, touched))
    finally:
        index.touched = None


def _compare(index: IndexWriter, touched: Collection[str]) -> Generator[None, None, Gaps]:
    """Compare as `compare`; leave out the files in ``touched``, which may become more."""
    try:
        found = evidence_sizes(index.directory)
    except EvidenceError as error:  # the files need not be gone
        log.warning("%s; the index was not compared with the files", error)
        return []
    index.is_behind = False
    yield
    index.commit()
    sizes = {name: size for name, (size, is_open) in found.items() if not is_open}

    def is_settled(name: str) -> bool:
        return name not in touched and (name in sizes or name not in found)

    unknown = set(sizes)
    for day in index.days():
        known = index.change(day, _match_sizes, index.directory, sizes, is_settled)
        if not known:  # its files are not unknown
            index.is_behind = True
            return []
        unknown.difference_update(*known)
        index.untidy.add(day)
        yield
    for name in sorted(filter(is_settled, unknown)):
        _add_unknown_file(index, name, sizes[name])
    return (yield from _gaps(index))


def _gaps(index: IndexWriter) -> Generator[None, None, Gaps]:
    """Read the gaps of all days, step by step."""
    gaps: Gaps = []
    for day in reversed(index.days()):
        found = index.change(day, DayWriter.gaps)
        index.is_behind |= not found
        gaps += [(day, gap) for part in found for gap in part]
        yield
    return gaps


def _match_sizes(
    database: DayWriter, directory: Path, sizes: Mapping[str, int], is_settled: Callable[[str], bool]
) -> Iterable[str]:
    """Update a database to match the sizes of the files it knows; return their names."""
    files = database.files()
    for name, end in filter(lambda file: is_settled(file[0]), files.items()):
        if name not in sizes:
            if is_gone(directory / name):
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
    index.is_behind |= not index.change(day_of(time_us), DayWriter.add_gap, name, size, linktype)


def _with_roles(block: EvidenceBlock, name: str) -> EvidenceBlock:
    """Return the items of a file with their roles; those in a file of context do not match anything.

    They are not known to be earlier or later than the match, before it is found.
    """
    parsed = parse_name(name)
    if not parsed or parsed.kind != FileKind.CONTEXT:
        return block
    items = block.items.copy()
    items["role"], items["matches"], items["first_match"] = Role.BEFORE, 0, 0
    return replace(block, items=items, rules=block.rules[:0])


def fill(
    index: IndexWriter, day: Day, gap: Gap, offsets: NDArray[np.int64], block: EvidenceBlock, rest: int
) -> bool:
    """Add rows for the first records of a gap, which then starts at offset ``rest``.

    ``offsets`` are the offsets of the block's records in the file. Returns False if the rows cannot be
    written now. The gap is then unchanged and can be filled later.
    """
    block = _with_roles(block, gap.name)
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
