"""Opens index databases, for reading and for writing. Runs where evidence is written or searched."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sensor.evidence.index_schema import APPLICATION_ID, SCHEMA, VERSION
from sensor.process.regular_file import ForeignFileError, check_regular

_SETTINGS = (
    "journal_mode = WAL",
    "synchronous = OFF",
    "cache_size = -65536",
    "temp_store = MEMORY",
)
SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Endings of the names of the files of a database."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CHECK_STEPS = 10_000
"""Steps of SQLite's engine between two checks: a millisecond or less."""

Row = tuple[Any, ...]


class DamagedRowError(sqlite3.DatabaseError):
    """A value in the database is none that a sensor writes: SQLite itself takes any type for any column."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def rows_of(rows: Iterable[Row], *types: type) -> Iterator[Row]:
    """Yield the rows.

    Raises:
        DamagedRowError: the values of a row are not of these types.
    """
    for row in rows:
        if tuple(map(type, row)) != types:
            raise DamagedRowError("a row is damaged")
        yield row


def _check_version(connection: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` unless the database is an index of this version."""
    sql = "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version"
    application_id, version = connection.execute(sql).fetchone()
    if application_id != APPLICATION_ID:
        raise sqlite3.DatabaseError("not an index of this version")
    if version != VERSION:
        raise sqlite3.DatabaseError(f"not an index of this version: its format is {version}, not {VERSION}")


def check_database(path: Path, *, is_written: bool = False) -> None:
    """Check the files of a database, because SQLite follows links and waits for FIFOs.

    A reader writes to the files of the write-ahead log, too.

    Raises:
        ForeignFileError: something else is in the place of one of them.
        OSError: this cannot be found out.
    """
    for suffix in SUFFIXES:
        check_regular(path.with_name(path.name + suffix), is_written=is_written or suffix in ("-wal", "-shm"))


def connect_readonly(path: Path) -> sqlite3.Connection:
    """Open a database for reading, even without permission to write to its directory.

    Raises:
        sqlite3.Error: the database is missing, locked, damaged or foreign.
    """
    try:
        check_database(path)
    except ForeignFileError as error:
        raise sqlite3.DatabaseError(f"{error.strerror}: {os.path.basename(error.filename)}") from error  # noqa: PTH119
    except OSError as error:
        raise sqlite3.OperationalError(error.strerror) from error
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        _check_version(connection)
    except sqlite3.OperationalError:
        # Without write permission SQLite cannot create the WAL files. If there are none, no writer is active.
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        connection = sqlite3.connect(
            f"{uri}&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
        _check_version(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def interrupt_by(connection: sqlite3.Connection, check: Callable[[], None]) -> None:
    """Call ``check`` often while statements run; if it raises, they fail with `sqlite3.OperationalError`."""
    connection.set_progress_handler(check, CHECK_STEPS)


def prepare_for_writing(connection: sqlite3.Connection) -> None:
    """Set up a database that was opened for writing, and mark it as in use; create its tables if it is new.

    Raises:
        sqlite3.OperationalError: the database is locked, or the disk is full.
        sqlite3.DatabaseError: the database is damaged or foreign, or was open when the host crashed.
    """
    execute = connection.execute
    boot_id = _BOOT_ID.read_text().strip()
    # A database without tables is new, or its creation was interrupted.
    is_new = execute("SELECT 1 FROM sqlite_schema").fetchone() is None
    if not is_new:
        _check_version(connection)
    for setting in _SETTINGS:
        execute(f"PRAGMA {setting}")
    if is_new:
        connection.executescript(f"BEGIN; {SCHEMA} COMMIT")
    elif execute("SELECT 1 FROM boot WHERE boot_id != ?", [boot_id]).fetchone():
        raise sqlite3.DatabaseError("the host crashed while it was open")
    execute("INSERT INTO boot SELECT ? WHERE NOT EXISTS (SELECT 1 FROM boot)", [boot_id])
