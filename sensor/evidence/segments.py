"""The segments of a day's index, and how rows are assigned to them. Runs with the evidence writer."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from sensor.evidence import index_schema
from sensor.evidence.index_connection import DamagedRowError, rows_of

_LAST = (1 << 63) - 1


class _Segment:
    __slots__ = ("items", "newest", "number", "start")

    def __init__(self, number: int, start: int, newest: int, items: int) -> None:
        self.number = number
        self.start = start
        self.newest = newest
        self.items = items


class Segments:
    """Consecutive ranges of ids that cover all ids from 0 on.

    A full segment ends when an id above all of its ids arrives. Rows can therefore arrive in order at
    several places at the same time: live, and for an older file that is reindexed.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        rows = connection.execute("SELECT segment, start, newest, pieces FROM segment ORDER BY start")
        self._segments = [_Segment(*row) for row in rows_of(rows, int, int, int, int)]
        self._starts = [segment.start for segment in self._segments]
        self._numbers = {segment.number: segment for segment in self._segments}
        self._touched: dict[int, _Segment] = {}

    def assign(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count rows, in their order, and return the number of each row's segment."""
        assigned = np.empty(len(ids), np.int64)
        done = 0
        while done < len(ids):
            segment, until = self._find(int(ids[done]))
            # Most rows follow each other in one segment, so it is tried on all, then on fewer and fewer.
            end = len(ids)
            while not _all_between(ids[done:end], segment.start, until):
                end = done + max(1, (end - done) // 8)
            end = done + self._fill(segment, ids[done:end])
            assigned[done:end] = segment.number
            if end == done:
                self._begin(int(ids[done]))
            done = end
        return assigned

    def _fill(self, segment: _Segment, ids: NDArray[np.int64]) -> int:
        """Count rows in a segment up to the one that must begin a new segment; return their number."""
        room = max(0, index_schema.SEGMENT_ITEMS - segment.items)
        count = min(room, len(ids))
        newest = max(segment.newest, int(ids[:count].max(initial=-1)))
        if count < len(ids):
            later = np.flatnonzero(ids[count:] > newest)
            count = count + int(later[0]) if len(later) else len(ids)
        if count:
            segment.newest = newest
            segment.items += count
            self._touched[segment.number] = segment
        return count

    def remove(self, number: int, items: int) -> None:
        """Subtract deleted rows from the count of a segment.

        Raises:
            DamagedRowError: there is no such segment.
        """
        segment = self._numbers.get(number)
        if segment is None:
            raise DamagedRowError(f"a row is in segment {number!r}, which does not exist")
        segment.items -= items
        self._touched[number] = segment

    def save(self) -> None:
        """Write the segments that have changed since the last call, in the transaction of the rows."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO segment VALUES (?, ?, ?, ?)",
            [(one.number, one.start, one.newest, one.items) for one in self._touched.values()],
        )
        self._touched.clear()

    def _find(self, id_: int) -> tuple[_Segment, int]:
        """Return the segment of an id, and the id at which the next segment starts."""
        position = bisect_right(self._starts, id_) - 1
        if position < 0:
            self._begin(0)
            position = 0
        later = self._starts[position + 1 : position + 2]
        return self._segments[position], later[0] if later else _LAST

    def _begin(self, start: int) -> None:
        position = bisect_right(self._starts, start)
        number = 1 + max(self._numbers, default=0)
        segment = _Segment(number, start, -1, 0)
        self._segments.insert(position, segment)
        self._starts.insert(position, start)
        self._numbers[number] = self._touched[number] = segment


def _all_between(ids: NDArray[np.int64], start: int, until: int) -> bool:
    return bool(ids.min() >= start and ids.max() < until)
