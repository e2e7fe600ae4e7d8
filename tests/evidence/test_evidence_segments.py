"""Segments: rows assigned in columns go to the same segments as rows assigned one by one."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from contextlib import closing
from random import Random

import numpy as np
import pytest

from sensor.evidence import index_schema
from sensor.evidence.segments import Segments

FULL = 5


class OneByOne:
    """A simple implementation: a list of segments, each with its start, its newest id and its rows."""

    def __init__(self) -> None:
        self.segments = [[1, 0, -1, 0]]

    def assign(self, id_: int) -> int:
        """Return the segment of a row; begin another one where a full one ends."""
        position = bisect_right([start for _, start, _, _ in self.segments], id_) - 1
        segment = self.segments[position]
        if id_ > segment[2]:
            if segment[3] >= FULL:
                segment = [len(self.segments) + 1, id_, -1, 0]
                self.segments.insert(position + 1, segment)
            segment[2] = id_
        segment[3] += 1
        return segment[0]


@pytest.mark.parametrize("seed", range(20))
def test_same_as_one_by_one(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Ids can be in order, repeated, late, and at several places at the same time."""
    monkeypatch.setattr(index_schema, "SEGMENT_ITEMS", FULL)
    seeded = Random(seed)
    expected = OneByOne()
    places = [0, 300, 600]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(index_schema.SCHEMA)
        segments = Segments(connection)
        for _ in range(30):
            ids = []
            for _ in range(seeded.randrange(1, 40)):
                place = seeded.choice([0, 0, 0, 1, 2])
                places[place] += seeded.choice([0, 1, 1, 2, -3])
                ids.append(max(0, places[place]))
            found = segments.assign(np.array(ids, np.int64)).tolist()
            assert found == [expected.assign(id_) for id_ in ids]
            segments.save()
            if seeded.random() < 0.2:
                segments = Segments(connection)
        rows = connection.execute("SELECT segment, start, newest, pieces FROM segment ORDER BY start")
        assert [list(row) for row in rows] == expected.segments
