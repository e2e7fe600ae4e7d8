"""Finds evidence by time, content or flow. Runs in the API process and in ``sensor evidence``.

It only reads, with or without a running writer. Databases are opened for each query and closed afterwards,
because the writer can replace or delete them at any time. A database that cannot be read is skipped, with a
line in the log.
"""

from __future__ import annotations

import heapq
import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sensor.errors import EvidenceError
from sensor.evidence.cursor import CursorError, Position, cursor_text, parse_cursor
from sensor.evidence.day_reader import DayReader, never_ends, query_day
from sensor.evidence.index_schema import CLASS_BITS, DAY_US, Day, databases, day_of, id_tail
from sensor.evidence.index_status import index_status
from sensor.evidence.pcap import Record
from sensor.evidence.query import Condition, Query, flow_conditions
from sensor.evidence.stored import Stored, StoredMatch, StoredRecords
from sensor.rules.engine.budget import Budget

BUDGET_S = 1.0
"""Time after which a search returns what it has found, with a cursor to continue."""
LOCATE_NS = 500_000_000
"""CPU time in which the matches of a page are located; the others have unknown positions."""
FLOW_S = 3600
"""Seconds before and after an item in which `EvidenceSearch.flow` looks; later, ports are reused."""

__all__ = ["CursorError", "EvidenceSearch", "Page", "Query", "Stored", "StoredMatch"]


class Page(NamedTuple):
    """One page of the results of a search."""

    items: list[Stored]
    cursor: str | None
    """The start of the next page; None at the end.

    A page that took too long to fill has fewer items, perhaps none.
    """


class EvidenceSearch:
    """Searches the index of an evidence directory, for all devices in it.

    ``check`` is called every few milliseconds during a query, also inside the database, and raises to end it.

    Raises:
        EvidenceError: the directory, or that of a device, cannot be read. Every method can raise this.
    """

    def __init__(self, directory: Path, check: Callable[[], None] = never_ends) -> None:
        self.directory = directory
        self._check = check
        self._query_day = partial(query_day, check=check)

    def devices(self) -> list[int]:
        """Return the devices that have a directory."""
        try:
            with os.scandir(self.directory) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            raise EvidenceError(f"{self.directory} cannot be read: {error.strerror}") from error
        return sorted(int(name) for name in names if re.fullmatch("[0-9]{1,18}", name))

    def lookup(self, time_us: int, devid: int | None = None) -> list[Stored]:
        """Return all evidence of a microsecond, in the order of the files."""
        found: list[Stored] = []
        day = day_of(time_us)
        between = partial(DayReader.between, low=day.first_id(time_us), high=day.first_id(time_us + 1))
        for device in self.devices() if devid is None else [devid]:
            found += self._query_day(self.directory / str(device) / day.file_name, day, device, between)
        return sorted(found, key=lambda one: (one.devid, one.path, one.offset))

    def search(self, query: Query, limit: int, cursor: str | None = None) -> Page:
        """Return the newest evidence, or the newest before the cursor.

        Raises:
            CursorError: the cursor is invalid.
        """
        before = parse_cursor(cursor) if cursor else None
        deadline_s = time.monotonic() + BUDGET_S
        items: list[Stored] = []
        last: Position = (0, 0, 0)
        with closing(self._merged(query, before, newest_first=True)) as stream:
            for position, stored in stream:
                if stored and len(items) < limit:
                    items.append(stored)
                    last = position
                elif stored:
                    return Page(items, cursor_text(last))
                elif time.monotonic() > deadline_s:
                    return Page(items, cursor_text(last if len(items) == limit else position))
        return Page(items, None)

    def iterate(self, query: Query) -> Iterator[Stored]:
        """Yield all evidence of a query, the oldest first."""
        return (stored for stored in self.steps(query) if stored)

    def steps(self, query: Query) -> Iterator[Stored | None]:
        """Yield all evidence of a query, the oldest first, and None now and then while nothing is found."""
        return (stored for _, stored in self._merged(query, None, newest_first=False))

    def get(self, key: str) -> Stored | None:
        """Return the item with this key, or None if it is not kept any more."""
        found = re.fullmatch(r"([0-9]{1,18})-([0-9]{8})-([0-9]{1,19})", key, re.ASCII)
        if not found:
            return None
        devid, id_ = int(found[1]), int(found[3])
        for day, path in databases(self.directory / str(devid)):
            if str(day) == found[2] and id_ < day.end_id:
                return next(
                    self._query_day(path, day, devid, lambda reader: reader.between(id_, id_ + 1)), None
                )
        return None

    def record(self, stored: Stored) -> Record:
        """Read the record of an item from its file.

        Raises:
            EvidenceError: the file is gone or cannot be read, or has another packet there.
        """
        with closing(StoredRecords()) as records:
            return records.read(stored)

    def matches(self, items: Sequence[Stored]) -> list[list[StoredMatch]]:
        """Return where the rules of each item matched, as far as that can be found in `LOCATE_NS`.

        An item whose packet cannot be read has matches without positions.
        """
        budget = Budget(LOCATE_NS)
        with closing(StoredRecords()) as records:
            return [records.matches(stored, budget) for stored in items]

    def flow(self, stored: Stored) -> Iterator[Stored]:
        """Yield the evidence of the same flow in both directions, within an hour, the oldest first."""
        return self.flow_between(
            stored, stored.time_us - FLOW_S * 1_000_000, stored.time_us + FLOW_S * 1_000_000
        )

    def flow_between(self, stored: Stored, since_us: int, until_us: int) -> Iterator[Stored]:
        """Yield the evidence of the flow of an item between two times, the oldest first."""
        query = Query(since_us=since_us, until_us=until_us, devid=stored.devid)
        extra = flow_conditions(stored.five_tuple)
        for _, found in self._merged(query, None, newest_first=False, extra=extra):
            if found and found.vlan_ids == stored.vlan_ids:
                yield found

    def histogram(self, query: Query, since_us: int, until_us: int, bins: int) -> list[dict[str, Any]]:
        """Count evidence over time, in bins of equal length that start at ``since_us``.

        Returns ``{"time_us", "total", "classes": {class: count}}`` for each bin. An item is counted once for
        each class that matched it. The text of the query is ignored.

        Raises:
            EvidenceError: a directory or a database cannot be read. The counts would be wrong without it.
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
                for number, classes, items in self._query_day(path, day, devid, count, needs_all=True):
                    found[number]["total"] += items
                    for rule_class, bit in CLASS_BITS.items():
                        found[number]["classes"][rule_class] += items * bool(classes & bit)
        return found

    def status(self) -> dict[str, Any]:
        """Return what is stored, and the progress of the index; see `index_status`."""
        return index_status(self.directory, self.devices(), self._check)

    def _devices(self, query: Query) -> list[int]:
        return [devid for devid in self.devices() if query.devid in (None, devid)]

    def _merged(
        self,
        query: Query,
        before: Position | None,
        *,
        newest_first: bool,
        extra: Sequence[Condition] = (),
    ) -> Generator[tuple[Position, Stored | None], None, None]:
        """Yield the results of `DayReader.select` for all devices, ordered by position."""
        streams = [
            self._stream(devid, query, before, extra, newest_first=newest_first)
            for devid in self._devices(query)
        ]
        yield from heapq.merge(*streams, key=lambda found: found[0], reverse=newest_first)

    def _stream(
        self,
        devid: int,
        query: Query,
        before: Position | None,
        extra: Sequence[Condition],
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
                DayReader.select, query=query, low=low, high=high, newest_first=newest_first, extra=extra
            )
            for id_, stored in self._query_day(path, day, devid, select):
                yield (day.time_us(id_), id_tail(id_), devid), stored

    def _days(self, devid: int, query: Query) -> list[tuple[Day, Path]]:
        """Return the databases in the time range of the query, the oldest first."""
        return [
            (day, path)
            for day, path in databases(self.directory / str(devid))
            if (query.until_us is None or day.start_us < query.until_us)
            and (query.since_us is None or query.since_us < day.start_us + DAY_US)
        ]
