"""The tables of SQLite that show columns of items, against rows made in Python."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from sensor.errors import SensorError
from sensor.evidence.block import ITEM
from sensor.evidence.index_schema import SCHEMA
from sensor.model import Role
from sensor.native.item_rows import add_item_rows, item_rows

MOST_RULES = 90


def connection() -> sqlite3.Connection:
    """Return an empty index with the tables."""
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.executescript(SCHEMA)
    add_item_rows(made)
    return made


def random_items(count: int) -> np.ndarray[Any, np.dtype[np.void]]:
    """Return items with random bytes, whose counts are within bounds."""
    chooser = random.Random(1)
    items = np.frombuffer(chooser.randbytes(count * ITEM.itemsize), ITEM).copy()
    items["ip_version"] = [chooser.choice((0, 4, 6)) for _ in range(count)]
    items["vlan_count"] = [chooser.choice((0, 0, 1, 2)) for _ in range(count)]
    items["role"] = [chooser.choice(tuple(Role)) for _ in range(count)]
    items["conversation"] = [chooser.choice((0, 1, (1 << 52) - 1)) for _ in range(count)]
    items["matches"] = [chooser.choice((0, 1, 1, 2, MOST_RULES)) for _ in range(count)]
    return items


def row(item: np.void, columns: tuple[int, ...], file: int, rules: list[int]) -> tuple[Any, ...]:
    """Return the row of an item."""
    id_, offset, interface, classes, segment = columns
    width = 16 if item["ip_version"] == 6 else 4
    tags = item["vlan_tci"][: item["vlan_count"]].astype(">u2").tobytes()
    return (
        id_, file, offset, int(item["caplen"]), int(item["wirelen"]), interface, int(item["protocol"]),
        item["source"][:width].tobytes(), int(item["sport"]),
        item["destination"][:width].tobytes(), int(item["dport"]),
        tags or None, int(item["payload_start"]), int(item["payload_end"]), classes,
        ",".join(map(str, rules)) or None, int(item["incomplete"]), int(item["role"]),
        int(item["conversation"]) or (0 if item["role"] else None), segment,
    )  # fmt: skip


def test_rows_are_the_items() -> None:
    """Every column of every kind of item arrives in the index, and is empty afterwards."""
    items = random_items(500)
    generator = np.random.default_rng(1)
    ids = np.sort(generator.choice(1 << 62, len(items), replace=False))
    columns = {name: generator.integers(0, 1 << 40, len(items)) for name in ("offsets", "interfaces")}
    columns |= {name: generator.integers(0, 31, len(items)) for name in ("classes", "segments")}
    matches = int(items["matches"].sum())
    rules, hits = generator.permutation(matches) + 1, generator.integers(0, 1 << 62, matches)
    hit_rules = np.arange(matches)
    ends = np.cumsum(items["matches"]).tolist()
    of_item = [rules[first:end].tolist() for first, end in zip([0, *ends], ends, strict=False)]
    values = zip(ids.tolist(), *(column.tolist() for column in columns.values()), strict=True)
    with closing(connection()) as database:
        with item_rows(items, file=7, ids=ids, **columns, rules=rules, hit_rules=hit_rules, hit_ids=hits):
            database.execute("INSERT INTO evidence SELECT * FROM item_row")
            database.execute("INSERT INTO hit SELECT * FROM hit_row")
        found = database.execute("SELECT * FROM evidence ORDER BY id").fetchall()
        assert found == [row(*one, 7, its) for *one, its in zip(items, values, of_item, strict=True)]
        found = database.execute("SELECT * FROM hit ORDER BY rule").fetchall()
        assert found == list(zip(hit_rules.tolist(), hits.tolist(), strict=True))
        assert database.execute("SELECT count(*) FROM item_row, hit_row").fetchone() == (0,)


def test_the_tables_have_the_columns_of_the_index() -> None:
    """A new column of the index is also one of the table that fills it."""
    with closing(connection()) as database:
        for table, shown in (("evidence", "item_row"), ("hit", "hit_row")):
            columns = [
                [name for _, name, *_ in database.execute(f"PRAGMA table_info({one})")]
                for one in (table, shown)
            ]
            assert columns[0] == columns[1]


def test_columns_of_different_lengths_are_refused() -> None:
    """Memory behind a column is never read."""
    none = np.empty(0, np.int64)
    one = np.zeros(1, np.int64)
    items = np.zeros(1, ITEM)
    usual = dict.fromkeys(("ids", "offsets", "interfaces", "classes", "segments"), one)
    usual |= dict.fromkeys(("rules", "hit_rules", "hit_ids"), none)
    with item_rows(items, file=1, **usual):
        pass
    for name in usual:
        wrong = usual | {name: one if usual[name] is none else none}
        with pytest.raises(SensorError, match="differ in length"), item_rows(items, file=1, **wrong):
            pass


def test_a_view_cannot_read_the_tables() -> None:
    """A database that someone else has made cannot use them behind the writer's back."""
    with closing(connection()) as database:
        database.execute("CREATE VIEW spy AS SELECT * FROM item_row")
        with pytest.raises(sqlite3.OperationalError, match="unsafe use of virtual table"):
            database.execute("SELECT * FROM spy")
        with pytest.raises(sqlite3.OperationalError, match="not authorized"):
            database.load_extension("x")
