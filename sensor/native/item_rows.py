"""Columns of items as tables of SQLite, which are in ``sqlite/item_rows.c``. Runs with the index writer.

``INSERT INTO … SELECT`` from these tables inserts the rows of a block with one statement: SQLite reads the
columns itself, so that there is no Python object per value.
"""

from __future__ import annotations

import ctypes
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.errors import SensorError

_LIBRARY = Path(__file__).with_name("sqlite.so")


def _load() -> ctypes.CDLL:
    if not hasattr(sqlite3.Connection, "load_extension"):
        raise SensorError("Python's sqlite3 cannot load extensions; install the Python of Debian or Ubuntu")
    try:
        return ctypes.CDLL(str(_LIBRARY))
    except OSError as error:
        raise SensorError(
            f"{_LIBRARY} cannot be loaded ({error}); install sensor again: pip install ."
        ) from error


# Loaded here, so that a process in a sandbox needs no access to the file.
_library = _load()
_ITEM_BYTES = ctypes.c_int64.in_dll(_library, "item_row_size").value


class _RowColumns(ctypes.Structure):
    """``struct columns``."""

    _fields_ = (
        ("items", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("interfaces", ctypes.c_void_p),
        ("classes", ctypes.c_void_p),
        ("segments", ctypes.c_void_p),
        ("first_rules", ctypes.c_void_p),
        ("rules", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("file", ctypes.c_int64),
        ("hit_rules", ctypes.c_void_p),
        ("hit_ids", ctypes.c_void_p),
        ("hits", ctypes.c_int64),
    )


def add_item_rows(connection: sqlite3.Connection) -> None:
    """Add the tables ``item_row`` and ``hit_row`` to a connection. They are empty outside of `item_rows`."""
    connection.enable_load_extension(True)
    try:
        connection.load_extension(str(_LIBRARY))
    finally:
        connection.enable_load_extension(False)


@contextmanager
def item_rows(
    items: NDArray[np.void],
    *,
    file: int,
    ids: NDArray[np.int64],
    offsets: NDArray[np.int64],
    interfaces: NDArray[np.int64],
    classes: NDArray[np.int64],
    segments: NDArray[np.int64],
    rules: NDArray[np.int64],
    hit_rules: NDArray[np.int64],
    hit_ids: NDArray[np.int64],
) -> Iterator[None]:
    """Show n items as rows of ``item_row``, and m matches as rows of ``hit_row``, in this thread.

    Args:
        items: The items, of dtype `sensor.evidence.block.ITEM`; shape (n,).
        file: The number of their file.
        ids: Their ids; this column and the next four have shape (n,).
        offsets: Offset of each record in the file.
        interfaces: Number of each item's interface.
        classes: The bits of the classes of each item's matches.
        segments: Segment of each item.
        rules: Number of the rule of each match, in the order of the items; shape (m,).
        hit_rules: The rows of ``hit_row``; shape (m,).
        hit_ids: The same.
    """
    if items.dtype.itemsize != _ITEM_BYTES:
        raise SensorError("the native library is of another version; install sensor again: pip install .")
    matches = items["matches"].astype(np.int64)
    columns = ids, offsets, interfaces, classes, segments, np.cumsum(matches) - matches
    shapes = {column.shape for column in columns}, {column.shape for column in (rules, hit_rules, hit_ids)}
    if shapes != ({items.shape}, {(int(matches.sum()),)}):
        raise SensorError("the columns of the index differ in length; this is a bug: please report it")
    held = [np.ascontiguousarray(items)]
    held += [np.ascontiguousarray(column, np.int64) for column in (*columns, rules, hit_rules, hit_ids)]
    *item_columns, rule_column, id_column = (column.ctypes.data for column in held)
    shown = _RowColumns(*item_columns, len(items), file, rule_column, id_column, len(hit_rules))
    _library.show_item_rows(ctypes.byref(shown))
    try:
        yield
    finally:
        _library.show_item_rows(None)
