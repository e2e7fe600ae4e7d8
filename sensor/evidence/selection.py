"""The rows of one day's database for which conditions hold. Runs where evidence is looked up.

A database is searched stretch by stretch, from one end. The first stretch is read row by row, which
answers all that is frequent; it also shows which condition is the rarest, and from there on that
condition's index leads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from sensor.evidence.index_schema import OFFSET_BITS, TALLY_US
from sensor.evidence.query import Condition

FIRST_ITEMS = 16_384
MOST_ITEMS = 262_144
"""Pieces in the first stretch; each further one is twice as long, up to the most."""
FETCHED_FIRST = 128
FETCHED_MOST = 8192
"""Rows that are fetched at a time: few for a page, many for an export."""
LEADS_BELOW = 0.2
"""An index leads where it leads to less than this part of the rows."""

COLUMNS = (
    "evidence.id, file.name, linktype, offset, caplen, wirelen, interface.name, protocol, source, sport,"
    " destination, dport, vlan, payload_start, payload_end, matches"
)
Row = tuple[Any, ...]


class Selection:
    """A range of ids, and the conditions that hold for the rows that are selected from it."""

    def __init__(
        self, connection: sqlite3.Connection, parts: Sequence[Condition], low: int, high: int
    ) -> None:
        """Take the ids from ``low`` up to, not including, ``high``."""
        self._connection = connection
        self._parts = parts
        self._values = {name: value for part in parts for name, value in part.values.items()}
        self._low, self._high = low, high
        self._leads: str | None = None

    def all_rows(self) -> list[Row]:
        """Return the `COLUMNS` of all rows at once."""
        return self._execute(f"{self._sql(COLUMNS)} ORDER BY evidence.id", self._low, self._high).fetchall()

    def rows(self, *, newest_first: bool) -> Iterator[tuple[int, Row | None]]:
        """Give the id and the `COLUMNS` of each row, in order.

        An id with None says that everything before it, in that order, has been given.
        """
        order = "DESC" if newest_first else "ASC"
        fetched = FETCHED_FIRST
        for low, high in self._stretches(newest_first=newest_first):
            sql = f"{self._sql(COLUMNS)} ORDER BY evidence.id {order} LIMIT :limit"
            start, end = low, high
            while rows := self._execute(sql, start, end, limit=fetched).fetchall():
                yield from ((row[0], row) for row in rows)
                if len(rows) < fetched:
                    break
                start, end = (start, rows[-1][0]) if newest_first else (rows[-1][0] + 1, end)
                fetched = min(4 * fetched, FETCHED_MOST)
            yield (low if newest_first else high), None

    def histogram(self, day_us: int, bin_us: int) -> Iterator[tuple[int, int, int]]:
        """Count the rows: number of the bin, set of classes, pieces; the day begins ``day_us`` after bin 0.

        In microseconds: ids that begin at another day than this one's would not fit 64 bits.
        """
        for low, high in self._stretches(newest_first=False):
            number = f"((evidence.id >> {OFFSET_BITS}) + {day_us}) / {bin_us}"
            yield from self._execute(f"{self._sql(f'{number}, classes, count(*)')} GROUP BY 1, 2", low, high)

    def _stretches(self, *, newest_first: bool) -> Iterator[tuple[int, int]]:
        """Cut the range into stretches; behind the first one the index that leads is chosen."""
        segments = self._connection.execute(
            "SELECT start, pieces FROM segment WHERE newest >= ? AND start < ? ORDER BY start",
            [self._low, self._high],
        ).fetchall()
        starts = [start for start, _ in segments[1:]]
        ranges = zip([self._low, *starts], [*starts, self._high], (n for _, n in segments), strict=False)
        low, high = (self._high, self._high) if newest_first else (self._low, self._low)
        items, most = 0, FIRST_ITEMS
        for start, end, count in reversed(list(ranges)) if newest_first else ranges:
            low, high = (start, high) if newest_first else (low, end)
            items += count
            if items >= most:
                yield low, high
                if most == FIRST_ITEMS:
                    self._leads = self._rarest(low, high)
                low, high = (low, low) if newest_first else (high, high)
                items, most = 0, min(2 * most, MOST_ITEMS)
        if low < high:
            yield low, high

    def _rarest(self, low: int, high: int) -> str | None:
        """Find the index that leads to the fewest rows, going by this stretch; None for no index."""
        parts = [part for part in self._parts if part.leads]
        if not parts:
            return None
        counts = ", ".join(f"sum({part.where} != 0)" for part in parts)
        sql = f"SELECT count(*), {counts} FROM evidence WHERE id >= :low AND id < :high"
        rows, *found = self._execute(sql, low, high).fetchone()
        fewest, leads = min((count or 0, part.leads) for count, part in zip(found, parts, strict=True))
        return leads if fewest <= rows * LEADS_BELOW else None

    def _sql(self, columns: str) -> str:
        conditions = "".join(f" AND {part.where}" for part in self._parts)
        lead = (
            f"({self._leads}) AS lead CROSS JOIN evidence ON evidence.id = lead.id"
            if self._leads
            else "evidence"
        )
        return (
            f"SELECT {columns} FROM {lead}"
            " CROSS JOIN file USING (file) CROSS JOIN interface USING (interface)"
            f" WHERE evidence.id >= :low AND evidence.id < :high AND file.name IS NOT NULL{conditions}"
        )

    def _execute(self, sql: str, low: int, high: int, **values: int) -> sqlite3.Cursor:
        return self._connection.execute(sql, {**self._values, **values, "low": low, "high": high})


def tally_histogram(
    connection: sqlite3.Connection, first: int, last: int, bit: int | None, day_us: int, bin_us: int
) -> Iterator[tuple[int, int, int]]:
    """Count the rows of whole steps, from ``first`` up to ``last``, that lie in one bin.

    Of the class with that bit alone, where one is given.
    """
    number = "(step * :step_us + :day_us) / :bin_us"
    values = {"first": first, "last": last, "day_us": day_us, "bin_us": bin_us, "bit": bit}
    return connection.execute(
        f"SELECT {number}, classes, sum(pieces) FROM tally WHERE step >= :first AND step < :last"
        f" AND {number} = (step * :step_us + :step_us - 1 + :day_us) / :bin_us"
        " AND (:bit IS NULL OR classes & :bit) GROUP BY 1, 2",
        {**values, "step_us": TALLY_US},
    )


def torn_steps(first: int, last: int, day_us: int, bin_us: int) -> list[int]:
    """Return the steps, from ``first`` up to ``last``, that lie in two bins, each longer than a step."""
    lowest = (first * TALLY_US + day_us) // bin_us + 1
    highest = (last * TALLY_US + day_us - 1) // bin_us
    edges = (number * bin_us - day_us for number in range(lowest, highest + 1))
    return [edge // TALLY_US for edge in edges if edge % TALLY_US]
