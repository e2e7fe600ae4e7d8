"""The index database: its tables, its ids, and how it is opened. Used by the writer and by readers.

``<evidence directory>/<devid>/YYYYMMDD.sqlite`` (WAL) knows the evidence of one UTC day. What is in it can
be found again from the pcap files, which stay the truth.

The id of a piece is its time: microseconds of the day, and below them 26 bits of its record's offset. Rows
so lie in the order of time, a microsecond is a range of ids, and a rebuilt index has the same ids.

Indexes over addresses and ports start with the **segment**, a stretch of time with some `SEGMENT_ITEMS`
pieces: an insert touches the few pages of the newest segment, however many addresses there are (nobody can
slow the writer by making them up), and a search asks segment by segment.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sensor.evidence.evidence_file import reading
from sensor.model import RULE_CLASSES, RuleClass

OFFSET_BITS = 26
TALLY_US = 10_000_000
TALLY_IDS = TALLY_US << OFFSET_BITS
"""A row of the tally counts so much time."""
SEGMENT_ITEMS = 16_384
DAY_US = 86_400_000_000
NO_INTERFACE = -1
"""Stands for the interface where a row is made from a file, which does not name it."""
APPLICATION_ID = 0x53454E53
"""Marks the databases as ours (https://www.sqlite.org/pragma.html#pragma_application_id)."""
VERSION = 1
CLASS_BITS: dict[RuleClass, int] = {rule_class: 1 << bit for bit, rule_class in enumerate(RULE_CLASSES)}

_NAME = re.compile(r"\d{8}\.sqlite", re.ASCII)
OFFSET_MASK = (1 << OFFSET_BITS) - 1

SCHEMA = f"""
CREATE TABLE boot (boot_id TEXT NOT NULL);  -- present while a writer has the database open

CREATE TABLE file (
    file INTEGER PRIMARY KEY,
    name TEXT UNIQUE,            -- its final one; NULL: it is gone, its rows are being deleted
    linktype INTEGER NOT NULL,
    end INTEGER NOT NULL,        -- every record before this offset has its row, but for those in gaps
    pieces INTEGER NOT NULL,
    oldest INTEGER NOT NULL,     -- ids of its rows are between these
    newest INTEGER NOT NULL
);

CREATE TABLE gap (               -- records without rows, from one offset up to another
    file INTEGER NOT NULL,
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    PRIMARY KEY (file, start)
) WITHOUT ROWID;

CREATE TABLE interface (
    interface INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE rule (
    rule INTEGER PRIMARY KEY,
    class TEXT NOT NULL,
    rule_id INTEGER NOT NULL,
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    vendor TEXT,
    os TEXT
);

CREATE TABLE evidence (
    id INTEGER PRIMARY KEY,      -- microseconds of the day << {OFFSET_BITS} | record's offset
    file INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    caplen INTEGER NOT NULL,
    wirelen INTEGER NOT NULL,
    interface INTEGER NOT NULL,
    protocol INTEGER NOT NULL,
    source BLOB NOT NULL,
    sport INTEGER NOT NULL,
    destination BLOB NOT NULL,
    dport INTEGER NOT NULL,
    vlan BLOB,                   -- 16 bits a tag, outer first; NULL: none
    payload_start INTEGER NOT NULL,
    payload_end INTEGER NOT NULL,
    classes INTEGER NOT NULL,    -- a bit for each class that a rule which hit is of
    matches TEXT,                -- JSON: [[rule, start, end, version], ...]; NULL: none
    segment INTEGER NOT NULL
);
CREATE INDEX evidence_source ON evidence (segment, source);
CREATE INDEX evidence_destination ON evidence (segment, destination);
CREATE INDEX evidence_sport ON evidence (segment, sport);
CREATE INDEX evidence_dport ON evidence (segment, dport);

CREATE TABLE segment (
    segment INTEGER PRIMARY KEY,
    start INTEGER NOT NULL UNIQUE,  -- its first id; it ends where the next one starts
    newest INTEGER NOT NULL,        -- its last id in use
    pieces INTEGER NOT NULL      -- rows in it
);

CREATE TABLE tally (             -- counts of rows, for histograms
    step INTEGER NOT NULL,       -- of 10 s, from the start of the day
    classes INTEGER NOT NULL,
    pieces INTEGER NOT NULL,
    PRIMARY KEY (step, classes)
) WITHOUT ROWID;

CREATE TABLE hit (
    rule INTEGER NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (rule, id)
) WITHOUT ROWID;

PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""


class Day(NamedTuple):
    """A UTC day, and the arithmetic of ids in it."""

    date: date

    @property
    def start_us(self) -> int:
        """Its first microsecond since the epoch."""
        return int(datetime.combine(self.date, datetime.min.time(), UTC).timestamp()) * 1_000_000

    @property
    def file_name(self) -> str:
        """Name of its database."""
        return f"{self}.sqlite"

    @property
    def end_id(self) -> int:
        """One more than the last id."""
        return DAY_US << OFFSET_BITS

    def first_id(self, time_us: int) -> int:
        """Return the smallest id of this microsecond; of one before or after the day too."""
        return (time_us - self.start_us) << OFFSET_BITS

    def time_us(self, id_: int) -> int:
        """Return the microsecond of an id."""
        return self.start_us + (id_ >> OFFSET_BITS)

    def is_near(self, name: str) -> bool:
        """Whether an evidence file of this name may have packets of the day; names may be in local time."""
        named = date(int(name[:4]), int(name[4:6]), int(name[6:8]))
        return abs(self.date - named) <= timedelta(days=1)

    def __str__(self) -> str:
        return f"{self.date:%Y%m%d}"


def day_of(time_us: int) -> Day:
    """Return the day of a time between 1970 and 2106."""
    return Day(date(1970, 1, 1) + timedelta(days=time_us // DAY_US))


def id_tail(offset: int) -> int:
    """Return what of a record's offset goes into its id."""
    return offset & OFFSET_MASK


def databases(directory: Path) -> list[tuple[Day, Path]]:
    """List the databases of a device's directory, the oldest day first; none where there is no directory.

    Raises `EvidenceError` where it cannot be read.
    """
    found = []
    with reading(directory):
        for name in filter(_NAME.fullmatch, os.listdir(directory)):  # noqa: PTH208 - pathlib takes its time
            with contextlib.suppress(ValueError):
                found.append((Day(datetime.strptime(name, "%Y%m%d.sqlite").date()), directory / name))
    return sorted(found)


def check_ours(connection: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` unless the database is an index of this version."""
    sql = "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version"
    if connection.execute(sql).fetchone() != (APPLICATION_ID, VERSION):
        raise sqlite3.DatabaseError("not an index of this version")


def connect_readonly(path: Path) -> sqlite3.Connection:
    """Open a database to read it, also where the right to write beside it is missing.

    Raises `sqlite3.Error` where it is missing, locked, torn or foreign.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        check_ours(connection)
    except sqlite3.OperationalError:
        # A read-only reader cannot make the files of the WAL; without any the database is at rest.
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        connection = sqlite3.connect(
            f"{uri}&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
        check_ours(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
