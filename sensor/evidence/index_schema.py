"""The index database: its tables and its ids. Runs where evidence is written or searched.

``<evidence directory>/<devid>/YYYYMMDD.sqlite`` (in WAL mode) describes the evidence of one UTC day. It can
be rebuilt from the pcap files, which are authoritative.

The id of a row is the time of its packet: the microseconds of the day, followed by the low 26 bits of the
record's offset. Rows are therefore stored in the order of time, a microsecond is a range of ids, and a
rebuilt index has the same ids.

The indexes on addresses and ports start with the **segment**, a stretch of time with about `SEGMENT_ITEMS`
rows. An insert touches only the few pages of the newest segment, however many addresses there are, so an
attacker cannot slow down the writer by inventing addresses. A search goes segment by segment.

A conversation is described in the database of the day of its number, which is a time. Its frames are in the
databases of their own days.
"""

from __future__ import annotations

import contextlib
import os
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sensor.evidence.evidence_file import reading
from sensor.model import RULE_CLASSES, RuleClass

OFFSET_BITS = 26
TALLY_US = 10_000_000
TALLY_IDS = TALLY_US << OFFSET_BITS
"""The time that one row of ``tally`` covers, as a range of ids."""
SEGMENT_ITEMS = 16_384
DAY_US = 86_400_000_000
NO_INTERFACE = -1
"""Interface of rows that are built from a file, which does not record the interface."""
APPLICATION_ID = 0x53454E53
"""Identifies the databases (https://www.sqlite.org/pragma.html#pragma_application_id)."""
VERSION = 4
"""Version of the tables; a database of another version is moved aside and rebuilt."""
CLASS_BITS: dict[RuleClass, int] = {rule_class: 1 << bit for bit, rule_class in enumerate(RULE_CLASSES)}

_NAME = re.compile(r"\d{8}\.sqlite", re.ASCII)
OFFSET_MASK = (1 << OFFSET_BITS) - 1

SCHEMA = f"""
CREATE TABLE boot (boot_id TEXT NOT NULL);  -- present while a writer has the database open

CREATE TABLE file (
    file INTEGER PRIMARY KEY,
    name TEXT UNIQUE,            -- final name; NULL: the file is gone, its rows are being deleted
    linktype INTEGER NOT NULL,
    end INTEGER NOT NULL,        -- every record before this offset has a row, except in gaps
    pieces INTEGER NOT NULL,
    oldest INTEGER NOT NULL,     -- range of the ids of its rows
    newest INTEGER NOT NULL
);

CREATE TABLE gap (               -- records without rows: a half-open range of offsets
    file INTEGER NOT NULL,
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    PRIMARY KEY (file, start)
) WITHOUT ROWID;

CREATE TABLE interface (
    interface INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE rule_set (
    rule_set INTEGER PRIMARY KEY,
    digest TEXT NOT NULL,        -- of the rule files; empty: unknown
    http TEXT NOT NULL           -- JSON: how the payloads begin that count as HTTP
);

CREATE TABLE rule (              -- rules that matched, as they were then
    rule INTEGER PRIMARY KEY,
    rule_set INTEGER NOT NULL,
    class TEXT NOT NULL,
    rule_id INTEGER NOT NULL,
    text TEXT NOT NULL           -- JSON: all fields of sensor.model.Rule
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
    vlan BLOB,                   -- 16 bits per tag, outer tag first; NULL: none
    payload_start INTEGER NOT NULL,
    payload_end INTEGER NOT NULL,
    classes INTEGER NOT NULL,    -- one bit per class of the rules that matched
    rules TEXT,                  -- numbers of the rules that matched, separated by commas; NULL: none
    incomplete INTEGER NOT NULL, -- 1: the search was cut for its cost, more rules may match
    role INTEGER NOT NULL,       -- a sensor.model.Role
    conversation INTEGER,        -- NULL: in none; 0: still to be found
    segment INTEGER NOT NULL
);
CREATE INDEX evidence_source ON evidence (segment, source);
CREATE INDEX evidence_destination ON evidence (segment, destination);
CREATE INDEX evidence_sport ON evidence (segment, sport);
CREATE INDEX evidence_dport ON evidence (segment, dport);
CREATE INDEX evidence_conversation ON evidence (conversation, role) WHERE conversation IS NOT NULL;

CREATE TABLE conversation (      -- what is known of conversations beside their frames
    conversation INTEGER PRIMARY KEY,
    protocol INTEGER NOT NULL,
    source BLOB NOT NULL,        -- of the first frame that is known
    sport INTEGER NOT NULL,
    destination BLOB NOT NULL,
    dport INTEGER NOT NULL,
    vlan BLOB,                   -- as in evidence
    ended INTEGER NOT NULL,      -- a sensor.evidence.conversation.Ending
    missing INTEGER NOT NULL,    -- sensor.evidence.conversation.Missing
    lost INTEGER NOT NULL,       -- frames of any flow that were lost while it ran
    packets INTEGER NOT NULL     -- frames that were kept; 0: unknown
);

CREATE TABLE segment (
    segment INTEGER PRIMARY KEY,
    start INTEGER NOT NULL UNIQUE,  -- first id; ends where the next segment starts
    newest INTEGER NOT NULL,        -- highest id in use
    pieces INTEGER NOT NULL      -- number of rows
);

CREATE TABLE tally (             -- numbers of rows, for histograms
    step INTEGER NOT NULL,       -- in units of 10 s from the start of the day
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
    """A UTC day, and the conversion between times and ids in it."""

    date: date

    @property
    def start_us(self) -> int:
        """The start of the day in microseconds since the epoch."""
        return int(datetime.combine(self.date, datetime.min.time(), UTC).timestamp()) * 1_000_000

    @property
    def file_name(self) -> str:
        """The name of its database."""
        return f"{self}.sqlite"

    @property
    def end_id(self) -> int:
        """The id after the last one of the day."""
        return DAY_US << OFFSET_BITS

    def first_id(self, time_us: int) -> int:
        """Return the smallest id of a microsecond, which may also lie before or after the day."""
        return (time_us - self.start_us) << OFFSET_BITS

    def time_us(self, id_: int) -> int:
        """Return the time of an id in microseconds since the epoch."""
        return self.start_us + (id_ >> OFFSET_BITS)

    def is_near(self, name: str) -> bool:
        """Return True if a file of this name, perhaps in local time, can have packets of the day."""
        named = date(int(name[:4]), int(name[4:6]), int(name[6:8]))
        return abs(self.date - named) <= timedelta(days=1)

    def __str__(self) -> str:
        return f"{self.date:%Y%m%d}"


def day_of(time_us: int) -> Day:
    """Return the day of a time between 1970 and 2106."""
    return Day(date(1970, 1, 1) + timedelta(days=time_us // DAY_US))


def id_tail(offset: int) -> int:
    """Return the part of a record's offset that is in its id."""
    return offset & OFFSET_MASK


def databases(directory: Path) -> list[tuple[Day, Path]]:
    """Return the databases of a device directory, the oldest day first; a missing directory has none.

    Raises:
        EvidenceError: the directory cannot be read.
    """
    found = []
    with reading(directory):
        for name in filter(_NAME.fullmatch, os.listdir(directory)):  # noqa: PTH208 - pathlib is slower
            with contextlib.suppress(ValueError):
                found.append((Day(datetime.strptime(name, "%Y%m%d.sqlite").date()), directory / name))
    return sorted(found)
