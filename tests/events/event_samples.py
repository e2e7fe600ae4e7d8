"""Evidence items with matches, and an event sender to pass them to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sensor.config.settings import Settings
from sensor.events.sender import EventSender
from sensor.evidence.block import block_of_objects
from sensor.evidence.writer import Chunk
from sensor.model import Evidence, FiveTuple, Match, Rule

NOON_NS = 1_687_089_600_000_000_000
THREAT = Rule(51001, "threat", "SQL injection", "SQL union select", "union")
SERVICE = Rule(11001, "service", "SSH", "OpenSSH", "union", version="9.2", vendor="OpenBSD", os="Unix")
HEADERS = bytes(54)


def item(number: int, payload: bytes = b"id=1 union select", rules: tuple[Rule, ...] = (THREAT,)) -> Evidence:
    """Return evidence of a TCP segment whose source port is ``number``."""
    return Evidence(
        frame=HEADERS + payload,
        timestamp_ns=NOON_NS + number * 1000,
        wirelen=len(HEADERS) + len(payload),
        linktype=1,
        interface=1,
        five_tuple=FiveTuple(6, b"\x0a\0\0\1", number % 65536, b"\x0a\0\0\2", 80),
        vlan=(0x2000 | 7,),
        payload_start=len(HEADERS),
        payload_end=len(HEADERS) + len(payload),
        matches=tuple(Match(rule, 5, 10, rule.version) for rule in rules),
    )


def chunk(first: int, count: int, payload: bytes = b"id=1 union select") -> Chunk:
    """Return ``count`` evidence items with one match each; time and source port number them."""
    items = [item(number, payload) for number in range(first, first + count)]
    return Chunk(Path("/e/3/a.pcap"), 24, block_of_objects(items))


@contextmanager
def sending(*urls: str, **settings: object) -> Iterator[EventSender]:
    """Start an event sender and close it at the end."""
    sender = EventSender(Settings(events=urls, **settings), as_json=False)  # type: ignore[arg-type]
    try:
        yield sender
    finally:
        sender.close()
