"""Compares the evidence files with the index. Runs in ``sensor evidence verify``; reads only.

It can run beside the writer: the last packets of an open file may have no rows yet.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from sensor.errors import EvidenceError
from sensor.evidence.day_reader import DayReader, RecordPlace
from sensor.evidence.evidence_file import evidence_sizes, open_evidence
from sensor.evidence.file_name import FileKind, parse_name
from sensor.evidence.index_schema import databases
from sensor.evidence.pcap import RecordReader


class Verification(NamedTuple):
    """The result for one file or database."""

    path: Path
    packets: int
    """Number of packets in the file that agree with their row."""
    fault: str
    """The difference between file and index; empty if there is none."""


def verify(directory: Path, devid: int) -> Iterator[Verification]:
    """Check every evidence file and database of a device; yield a result for each.

    A file is correct if it can be read to its end, every packet in it has a row, and every row has a packet,
    which is context if the file is one of context.
    """
    with ExitStack() as stack:
        readers: list[DayReader] = []
        for day, path in databases(directory):
            try:
                readers.append(stack.enter_context(closing(DayReader(path, day, devid))))
                names = readers[-1].summary().files
            except sqlite3.Error as error:
                yield Verification(path, 0, f"cannot be used ({error}); rebuild it: sensor evidence reindex")
                continue
            gone = sorted(names.keys() - evidence_sizes(directory).keys())
            fault = f"has rows of deleted files: {', '.join(gone)}" if gone else ""
            yield Verification(path, 0, fault)
        for name, (_, is_open) in sorted(evidence_sizes(directory).items()):
            yield _verify_file(directory / name, readers, is_open=is_open)


def _verify_file(path: Path, readers: list[DayReader], *, is_open: bool) -> Verification:
    packets, file_name = 0, parse_name(path.name)
    is_context = file_name is not None and file_name.kind == FileKind.CONTEXT
    try:
        # If files are named in local time, a file at the end of summer time can have records of two days.
        rows = heapq.merge(*(reader.places(path.name) for reader in readers))
        row = next(rows, None)
        with open_evidence(path) as file:
            for record in (reader := RecordReader(file)):
                place = RecordPlace(record.offset, record.time_us, record.caplen, record.wirelen, is_context)
                if row is None and is_open:
                    return Verification(path, packets, "")
                if row != place:
                    return Verification(path, packets, _difference(row, place))
                packets += 1
                row = next(rows, None)
            if row is not None:
                return Verification(path, packets, f"has no packet at byte {row.offset}, but the index does")
            torn = 0 if is_open else file.seek(0, 2) - reader.end
    except (EvidenceError, OSError, sqlite3.Error) as error:
        return Verification(path, packets, f"cannot be read to its end: {error}")
    return Verification(path, packets, f"ends with {torn} bytes of an incomplete record" if torn else "")


def _difference(row: RecordPlace | None, place: RecordPlace) -> str:
    if row is None or row.offset > place.offset:
        return f"the packet at byte {place.offset} is not in the index"
    return f"has a packet at byte {row.offset} that differs from the index"
