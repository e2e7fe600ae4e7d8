"""Selects rows from one day's database by conditions. Runs in the API process and in ``sensor evidence``.

A database is searched in stretches, from one end. The first stretch is read row by row, which is enough for
frequent evidence. It also shows which condition is the rarest, and the index of that condition is used from
there on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from sensor.evidence.index_connection import Row, rows_of
from sensor.evidence.index_schema import OFFSET_BITS, TALLY_US
from sensor.evidence.query import Condition

FIRST_ITEMS = 16_384
MOST_ITEMS = 262_144
"""Rows in the first stretch, and the maximum; each stretch is twice as long as the one before."""
FETCHED_FIRST = 128
FETCHED_MOST = 8192
"""Rows fetched at a time, and the maximum: few for a page, many for an export."""
INDEX_SHARE_MAX = 0.2
"""An index is used if at most this share of the rows meets its condition."""

COLUMNS = (
    "evidence.id, file.name, linktype, offset, caplen, wirelen, interface.name, protocol, source, sport,"
    " destination, dport, vlan, payload_start, payload_end, rules, incomplete,"
    " role, conversation"
)


class Selection:
    """The rows in a range of ids that meet all conditions."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        parts: Sequence[Condition],
        low: int,
        high: int,
        ids: str | None = None,
    ) -> None:
        """Select from the ids from ``low`` up to, not including, ``high``, perhaps only among ``ids``."""
        self._connection = connection
        self._parts = parts
        self._values = {name: value for part in parts for name, value in part.values.items()}
        self._low, self._high = low, high
        self._ids = ids

    def all_rows(self) -> list[Row]:
        """Return the `COLUMNS` of all rows."""
        return self._execute(f"{self._sql(COLUMNS)} ORDER BY evidence.id", self._low, self._high).fetchall()

    def rows(self, *, newest_first: bool) -> Iterator[tuple[int, Row | None]]:
        """Yield the id and the `COLUMNS` of each row, in order.

        An id with None means that all rows before it, in that order, have been yielded.
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
        """Yield the number of the bin, the bits of a set of classes, and the number of rows.

        The day begins ``day_us`` after the start of bin 0. Bins are computed in microseconds, because ids
        counted from another day would not fit into 64 bits.
        """
        for low, high in self._stretches(newest_first=False):
            number = f"((evidence.id >> {OFFSET_BITS}) + {day_us}) / {bin_us}"
            rows = self._execute(f"{self._sql(f'{number}, classes, count(*)')} GROUP BY 1, 2", low, high)
            yield from rows_of(rows, int, int, int)

    def _stretches(self, *, newest_first: bool) -> Iterator[tuple[int, int]]:
        """Yield stretches of the range; after the first one, choose the index to use."""
        rows = self._connection.execute(
            "SELECT start, pieces FROM segment WHERE newest >= ? AND start < ? ORDER BY start",
            [self._low, self._high],
        )
        segments = list(rows_of(rows, int, int))
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
                    self._ids = self._rarest(low, high)
                low, high = (low, low) if newest_first else (high, high)
                items, most = 0, min(2 * most, MOST_ITEMS)
        if low < high:
            yield low, high

    def _rarest(self, low: int, high: int) -> str | None:
        """Return the ``ids`` of the condition that the fewest rows of a stretch meet; None for no index."""
        parts = [part for part in self._parts if part.ids]
        if not parts:
            return None
        counts = ", ".join(f"sum({part.where} != 0)" for part in parts)
        sql = f"SELECT count(*), {counts} FROM evidence WHERE id >= :low AND id < :high"
        rows, *found = self._execute(sql, low, high).fetchone()
        fewest, ids = min((count or 0, part.ids) for count, part in zip(found, parts, strict=True))
        return ids if fewest <= rows * INDEX_SHARE_MAX else None

    def _sql(self, columns: str) -> str:
        conditions = "".join(f" AND {part.where}" for part in self._parts)
        lead = (
            f"({self._ids}) AS lead CROSS JOIN evidence ON evidence.id = lead.id" if self._ids else "evidence"
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
    """Count the rows of the steps from ``first`` up to, not including, ``last`` that lie in one bin.

    If ``bit`` is given, only rows of that class are counted. The result is as in `Selection.histogram`.
    """
    number = "(step * :step_us + :day_us) / :bin_us"
    values = {"first": first, "last": last, "day_us": day_us, "bin_us": bin_us, "bit": bit}
    rows = connection.execute(
        f"SELECT {number}, classes, sum(pieces) FROM tally WHERE step >= :first AND step < :last"
        f" AND {number} = (step * :step_us + :step_us - 1 + :day_us) / :bin_us"
        " AND (:bit IS NULL OR classes & :bit) GROUP BY 1, 2",
        {**values, "step_us": TALLY_US},
    )
    return rows_of(rows, int, int, int)


def straddling_steps(first: int, last: int, day_us: int, bin_us: int) -> list[int]:
    """Return the steps from ``first`` up to ``last`` that lie in two bins; bins are longer than a step."""
    lowest = (first * TALLY_US + day_us) // bin_us + 1
    highest = (last * TALLY_US + day_us - 1) // bin_us
    edges = (number * bin_us - day_us for number in range(lowest, highest + 1))
    return [edge // TALLY_US for edge in edges if edge % TALLY_US]
