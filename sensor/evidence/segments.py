"""The segments of a day's index, and how rows are assigned to them. Runs with the evidence writer."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right

from sensor.evidence import index_schema


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
        self._segments = [_Segment(*row) for row in rows]
        self._starts = [segment.start for segment in self._segments]
        self._touched: dict[int, _Segment] = {}
        self._current: _Segment | None = None
        self._until = 0

    def assign(self, id_: int) -> int:
        """Count a row and return the number of its segment."""
        current = self._current
        if current is None or not current.start <= id_ < self._until:
            current = self._enter(bisect_right(self._starts, id_) - 1)
        if id_ > current.newest:
            if current.items >= index_schema.SEGMENT_ITEMS:
                current = self._begin(id_)
            current.newest = id_
        current.items += 1
        return current.number

    def remove(self, number: int, items: int) -> None:
        """Subtract deleted rows from the count of a segment."""
        segment = next(segment for segment in self._segments if segment.number == number)
        segment.items -= items
        self._touched[number] = segment

    def save(self) -> None:
        """Write the segments that have changed since the last call, in the transaction of the rows."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO segment VALUES (?, ?, ?, ?)",
            [(one.number, one.start, one.newest, one.items) for one in self._touched.values()],
        )
        self._touched.clear()
        self._current = None

    def _enter(self, position: int) -> _Segment:
        if position < 0:
            return self._begin(0)
        self._current = current = self._segments[position]
        later = self._starts[position + 1 : position + 2]
        self._until = later[0] if later else 1 << 63
        self._touched[current.number] = current
        return current

    def _begin(self, start: int) -> _Segment:
        position = bisect_right(self._starts, start)
        number = 1 + max((segment.number for segment in self._segments), default=0)
        self._segments.insert(position, _Segment(number, start, -1, 0))
        self._starts.insert(position, start)
        return self._enter(position)
