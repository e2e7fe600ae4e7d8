"""Evidence is found again: by microsecond, by content, by flow. Runs in the API and in ``sensor evidence``.

Reads only, beside the writer or without it. Databases are opened for each question and closed again: the
writer may replace or delete them at any time. One that cannot be read is passed over, with a line in the log.
"""

from __future__ import annotations

import heapq
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sensor.errors import EvidenceError
from sensor.evidence.day_reader import DayReader, Records, Stored, StoredMatch, Summary
from sensor.evidence.evidence_file import evidence_sizes, reading
from sensor.evidence.index_schema import CLASS_BITS, DAY_US, Day, databases, day_of, id_tail
from sensor.evidence.pcap import FILE_HEADER_BYTES, Record
from sensor.evidence.query import Condition, Query, flow_conditions

BUDGET_S = 1.0
"""A search that has taken so long gives what it has found, with a cursor to go on from."""
FLOW_S = 3600
"""Evidence of a flow is looked for so long before and after a piece: later the ports are others'."""

T = TypeVar("T")

__all__ = ["CursorError", "EvidenceSearch", "Page", "Query", "Stored", "StoredMatch"]

log = logging.getLogger(__name__)


class CursorError(EvidenceError):
    """What was given as the place to go on from is none."""


class Page(NamedTuple):
    """A part of what a search finds."""

    items: list[Stored]
    cursor: str | None
    """Where to go on; None at the end. A page that took too long to fill has fewer items, even none."""


Position = tuple[int, int, int]
"""The order of evidence: microsecond, the offset's part of the id, devid."""


class EvidenceSearch:
    """The index of an evidence directory, of all devices in it.

    Every question raises `EvidenceError` where the directory, or one of a device in it, cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def devices(self) -> list[int]:
        """List the devices that have a directory."""
        try:
            names = [path.name for path in self.directory.iterdir() if path.is_dir()]
        except OSError as error:
            raise EvidenceError(f"{self.directory} cannot be read: {error.strerror}") from error
        return sorted(int(name) for name in names if re.fullmatch("[0-9]{1,18}", name))

    def lookup(self, time_us: int, devid: int | None = None) -> list[Stored]:
        """Return all packets of that microsecond, in the order of the files."""
        found: list[Stored] = []
        day = day_of(time_us)
        between = partial(DayReader.between, low=day.first_id(time_us), high=day.first_id(time_us + 1))
        for device in self.devices() if devid is None else [devid]:
            found += _ask(self.directory / str(device) / day.file_name, day, device, between)
        return sorted(found, key=lambda one: (one.devid, one.path, one.offset))

    def search(self, query: Query, limit: int, cursor: str | None = None) -> Page:
        """Return the newest evidence, or the newest before the cursor.

        Raises `CursorError` where the cursor is none of ours.
        """
        before = _parse(cursor) if cursor else None
        deadline_s = time.monotonic() + BUDGET_S
        items: list[Stored] = []
        last: Position = (0, 0, 0)
        with closing(self._merged(query, before, newest_first=True)) as stream:
            for position, stored in stream:
                if stored and len(items) < limit:
                    items.append(stored)
                    last = position
                elif stored:
                    return Page(items, _cursor(last))
                elif time.monotonic() > deadline_s:
                    return Page(items, _cursor(last if len(items) == limit else position))
        return Page(items, None)

    def iterate(self, query: Query, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[Stored]:
        """Give all evidence that is asked for, the oldest first, for as long as it is wanted.

        ``is_wanted`` is asked on the way too, where nothing is found.
        """
        for _, stored in self._merged(query, None, newest_first=False):
            if not is_wanted():
                return
            if stored:
                yield stored

    def get(self, key: str) -> Stored | None:
        """Return the piece of evidence with this key, if it is still kept."""
        found = re.fullmatch(r"([0-9]{1,18})-([0-9]{8})-([0-9]{1,19})", key, re.ASCII)
        if not found:
            return None
        devid, id_ = int(found[1]), int(found[3])
        for day, path in databases(self.directory / str(devid)):
            if str(day) == found[2] and id_ < day.end_id:
                return next(_ask(path, day, devid, lambda reader: reader.between(id_, id_ + 1)), None)
        return None

    def record(self, stored: Stored) -> Record:
        """Read the packet from its file.

        Raises `EvidenceError` where the file is gone, or has another packet there.
        """
        with closing(Records()) as records:
            return records.read(stored)

    def flow(self, stored: Stored) -> Iterator[Stored]:
        """Give the evidence of the same flow, both directions, the oldest first; within an hour."""
        query = Query(
            since_us=stored.time_us - FLOW_S * 1_000_000,
            until_us=stored.time_us + FLOW_S * 1_000_000,
            devid=stored.devid,
        )
        vlan = [tci & 0xFFF for tci in stored.vlan]
        further = flow_conditions(stored.five_tuple)
        for _, found in self._merged(query, None, newest_first=False, further=further):
            if found and [tci & 0xFFF for tci in found.vlan] == vlan:
                yield found

    def histogram(self, query: Query, since_us: int, until_us: int, bins: int) -> list[dict[str, Any]]:
        """Count evidence over time, in bins of the same length from ``since_us`` on.

        Returns for each bin ``{"time_us", "total", "classes": {class: pieces}}``. A piece counts once
        for each class that it hit. The text of a query is not looked at. A count that lacks a day would be
        wrong: `EvidenceError` is raised also where a database cannot be read.
        """
        bin_us = max(1, -((since_us - until_us) // bins))
        found: list[dict[str, Any]] = [
            {"time_us": since_us + number * bin_us, "total": 0, "classes": dict.fromkeys(CLASS_BITS, 0)}
            for number in range(bins)
        ]
        since_us = max(since_us, query.since_us or since_us)
        query = replace(query, since_us=since_us, until_us=min(until_us, query.until_us or until_us))
        for devid in self._devices(query):
            for day, path in self._days(devid, query):
                count = partial(DayReader.histogram, query=query, start_us=found[0]["time_us"], bin_us=bin_us)
                for number, classes, items in _ask(path, day, devid, count, needs_all=True):
                    found[number]["total"] += items
                    for rule_class, bit in CLASS_BITS.items():
                        found[number]["classes"][rule_class] += items * bool(classes & bit)
        return found

    def status(self) -> dict[str, Any]:
        """Say what is kept, and how far the index is.

        Returns ``{"devices": [{"devid", "pieces", "bytes", "oldest_us", "newest_us", "files"}],
        "index": {"state": "ok" | "rebuilding", "done", "total"}}``; the last two are bytes of
        evidence files.
        """
        devices = [self._device(devid) for devid in self.devices()]
        missing = sum(device.pop("missing") for device in devices)
        total = sum(device["bytes"] for device in devices)
        state = "rebuilding" if missing else "ok"
        return {"devices": devices, "index": {"state": state, "done": total - missing, "total": total}}

    def _device(self, devid: int) -> dict[str, Any]:
        directory = self.directory / str(devid)
        sizes = evidence_sizes(directory)
        summaries: list[Summary] = []
        for day, path in databases(directory):
            summaries += _ask(path, day, devid, lambda reader: [reader.summary()])
        known = {name: ends for summary in summaries for name, ends in summary.files.items()}
        missing = 0
        for name, (size, is_open) in sizes.items():
            end, gaps = known.get(name, (FILE_HEADER_BYTES, 0))
            missing += gaps if is_open else gaps + max(0, size - end)
        times_us = [time for summary in summaries for time in (summary.oldest_us, summary.newest_us) if time]
        return {
            "devid": devid,
            "pieces": sum(summary.items for summary in summaries),
            "bytes": sum(size for size, _ in sizes.values()),
            "oldest_us": min(times_us, default=None),
            "newest_us": max(times_us, default=None),
            "files": len(sizes),
            "missing": missing,
        }

    def _devices(self, query: Query) -> list[int]:
        return [devid for devid in self.devices() if query.devid in (None, devid)]

    def _merged(
        self,
        query: Query,
        before: Position | None,
        *,
        newest_first: bool,
        further: Sequence[Condition] = (),
    ) -> Generator[tuple[Position, Stored | None], None, None]:
        """Give what is found in all devices, in order; what `DayReader.select` gives, by position."""
        streams = [
            self._stream(devid, query, before, further, newest_first=newest_first)
            for devid in self._devices(query)
        ]
        yield from heapq.merge(*streams, key=lambda found: found[0], reverse=newest_first)

    def _stream(
        self,
        devid: int,
        query: Query,
        before: Position | None,
        further: Sequence[Condition],
        *,
        newest_first: bool,
    ) -> Iterator[tuple[Position, Stored | None]]:
        days = self._days(devid, query)
        for day, path in reversed(days) if newest_first else days:
            low, high = 0, day.end_id
            if query.since_us is not None:
                low = max(low, day.first_id(query.since_us))
            if query.until_us is not None:
                high = min(high, day.first_id(query.until_us))
            if before is not None:
                time_us, tail, last_devid = before
                high = min(high, day.first_id(time_us) + tail + (devid < last_devid))
            if low >= high:
                continue
            select = partial(
                DayReader.select, query=query, low=low, high=high, newest_first=newest_first, further=further
            )
            for id_, stored in _ask(path, day, devid, select):
                yield (day.time_us(id_), id_tail(id_), devid), stored

    def _days(self, devid: int, query: Query) -> list[tuple[Day, Path]]:
        """List the databases that may have what is asked for, the oldest first."""
        return [
            (day, path)
            for day, path in databases(self.directory / str(devid))
            if (query.until_us is None or day.start_us < query.until_us)
            and (query.since_us is None or query.since_us < day.start_us + DAY_US)
        ]


def _ask(
    path: Path, day: Day, devid: int, question: Callable[[DayReader], Iterable[T]], *, needs_all: bool = False
) -> Iterator[T]:
    """Give what a database answers; from where on it cannot be read nothing, or an error if all is needed."""
    try:
        with closing(DayReader(path, day, devid)) as reader:
            yield from question(reader)
    except sqlite3.Error as error:
        with reading(path.parent):
            path.stat()  # it may have been deleted with its evidence a moment ago: that is no fault
            if needs_all:
                raise EvidenceError(
                    f"{path} cannot be read ({error}); where that stays so: sensor evidence reindex"
                ) from error
            log.warning("%s cannot be read, its evidence is not found: %s", path, error)


def _cursor(position: Position) -> str:
    return "-".join(map(str, position))


def _parse(cursor: str) -> Position:
    found = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})-([0-9]{1,18})", cursor, re.ASCII)
    if not found:
        raise CursorError(f"{cursor!r} is no cursor of a search; start again without one")
    time_us, tail, devid = map(int, found.groups())
    return time_us, tail, devid
