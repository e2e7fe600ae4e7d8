"""Sample evidence, and how other programs read evidence files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.pcap import Record, RecordReader
from sensor.model import Evidence, FiveTuple, LinkType

DEVID = 3
NOON_S = 1_687_089_600
"""2023-06-18 12:00:00 UTC: the start of a window."""
NS = 1_000_000_000
RECORD_HEADER_BYTES = 16
FILE_HEADER_BYTES = 24
PROGRAM_ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
"""The environment for programs that the tests start, with the import path of the tests."""

_UDP_HEADERS = bytes.fromhex(
    "00268832facbb04f13e7432e0800"  # Ethernet, IPv4
    "45000030000040004011000000000a010000000a"
    "30390009001c0000"  # UDP, to the discard port
)


def item(
    number: int = 0,
    time_ns: int = NOON_S * NS,
    *,
    caplen: int = 62,
    wirelen: int | None = None,
    linktype: int = LinkType.ETHERNET,
) -> Evidence:
    """Return evidence with a UDP frame whose payload starts with the number and is filled with it."""
    payload = number.to_bytes(8, "big") + bytes([number % 251]) * (caplen - len(_UDP_HEADERS) - 8)
    return Evidence(
        frame=_UDP_HEADERS + payload,
        timestamp_ns=time_ns,
        wirelen=caplen if wirelen is None else wirelen,
        linktype=linktype,
        interface=1,
        five_tuple=FiveTuple(17, b"\x00\x00\x0a\x01", 12345, b"\x00\x00\x00\x0a", 9),
        vlan=(),
        payload_start=len(_UDP_HEADERS),
        payload_end=caplen,
        matches=(),
    )


def number_of(record: Record) -> int:
    """Return the number that `item` has put into the frame."""
    return int.from_bytes(record.frame[len(_UDP_HEADERS) :][:8], "big")


@contextmanager
def writing(directory: Path, *, local_time: bool = False) -> Iterator[IndexedWriter]:
    """Provide a writer that is closed at the end."""
    with closing(IndexedWriter(directory, DEVID, local_time=local_time)) as writer:
        yield writer


def records_of(path: Path) -> list[Record]:
    """Return the records of an evidence file."""
    with path.open("rb") as file:
        return list(RecordReader(file))


def numbers_in(path: Path) -> list[int]:
    """Return the numbers of the items in a file, in its order."""
    return [number_of(record) for record in records_of(path)]


def names_in(directory: Path) -> list[str]:
    """Return the names of the evidence files under an evidence directory."""
    others = (".lock", ".reload", ".sqlite", ".sqlite-wal", ".sqlite-shm")
    return sorted(path.name for path in (directory / str(DEVID)).iterdir() if not path.name.endswith(others))


def tcpdump_count(path: Path) -> int:
    """Return the number of packets that tcpdump reads from a file; fail if it reports a problem."""
    # -Z root: otherwise tcpdump drops its privileges, and cannot read a private directory.
    done = subprocess.run(
        ["tcpdump", "-Z", "root", "-nn", "-r", str(path)], capture_output=True, text=True, check=True
    )
    problems = [line for line in done.stderr.splitlines() if not line.startswith(("reading from", "Warning"))]
    assert not problems, done.stderr
    return len(re.findall(r"^\d\d:\d\d:\d\d\.\d{6} ", done.stdout, re.MULTILINE))


def capinfos_counts(paths: list[Path]) -> list[int]:
    """Return the number of packets that capinfos reads from each file; fail if it reports a problem."""
    command = ["capinfos", "-T", "-r", "-M", "-c", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    return [int(line.split("\t")[1]) for line in done.stdout.splitlines()]
