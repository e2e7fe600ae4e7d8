"""Exports evidence as pcap or pcapng. Runs in the API process and in ``sensor evidence export``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Literal, NamedTuple

from sensor.errors import EvidenceError
from sensor.evidence.pcap import Record, file_header, record_header
from sensor.evidence.pcapng_writer import (
    enhanced_packet,
    interface_description,
    interface_statistics,
    section_header,
)
from sensor.evidence.stored import Stored, StoredMatch, StoredRecords
from sensor.model import LinkType
from sensor.text import INCOMPLETE, count_of, shown

Container = Literal["pcap", "pcapng"]

log = logging.getLogger(__name__)


class Losses(NamedTuple):
    """The frames that an interface lost while the packets were captured."""

    frames: int
    first_us: int
    last_us: int


def encoded(
    items: Iterable[Stored | None], container: Container, losses: Losses | None = None
) -> Iterator[bytes]:
    """Yield the header of a capture file, then each packet.

    A pcap file has the link type of its first packet; packets with another one are left out, with a line in
    the log at the end. A pcapng file has all packets, each with a comment that names the rules that matched,
    its role and its conversation; at the end it has the losses, as statistics of the first interface.
    Packets that can no longer be read are left out, with a line in the log. None among the items becomes an
    empty block.
    """
    return _as_pcapng(items, losses) if container == "pcapng" else _as_pcap(items)


def _as_pcap(items: Iterable[Stored | None]) -> Iterator[bytes]:
    linktype: int | None = None
    others = 0
    for found in _records(items):
        if found is None:
            yield b""
            continue
        stored, record = found
        if linktype is None:
            linktype = stored.linktype
            yield file_header(linktype)
        if stored.linktype == linktype:
            yield record_header(record.time_us, record.caplen, record.wirelen) + record.frame
        else:
            others += 1
    if linktype is None:
        yield file_header(LinkType.ETHERNET)
    if others:
        log.warning(
            "left out of the pcap file: %s of another link type; use pcapng for all",
            count_of(others, "packet"),
        )


def _as_pcapng(items: Iterable[Stored | None], losses: Losses | None) -> Iterator[bytes]:
    interfaces: dict[tuple[int, str], int] = {}
    last = section_header()  # held back, because the losses are part of the last chunk
    for found in _records(items):
        if found is None:
            yield b""
            continue
        stored, record = found
        interface = stored.linktype, stored.interface
        described = b""
        if interface not in interfaces:
            interfaces[interface] = len(interfaces)
            described = interface_description(*interface)
        comment = "; ".join(_remarks(stored, record))
        yield last
        last = described + enhanced_packet(
            interfaces[interface], record.time_us, record.wirelen, record.frame, comment
        )
    if losses and interfaces:
        last += interface_statistics(0, losses.first_us, losses.last_us, losses.frames)
    yield last


def _remarks(stored: Stored, record: Record) -> Iterator[str]:
    yield from map(label, stored.matches(record.frame))
    if stored.incomplete:
        yield INCOMPLETE
    if stored.conversation:
        role = stored.role.name.lower()
        yield f"{role} in conversation {stored.conversation}"


def _records(items: Iterable[Stored | None]) -> Iterator[tuple[Stored, Record] | None]:
    with closing(StoredRecords()) as records:
        for stored in items:
            if stored is None:
                yield None
                continue
            try:
                record = records.read(stored)
            except EvidenceError as error:
                log.warning("left out: %s", error)
                continue
            yield stored, record


def label(match: StoredMatch) -> str:
    """Return a short text for a match: ``threat 50001 SQL injection``."""
    return shown(" ".join(filter(None, (match.rule_class, str(match.rule_id), match.name, match.version))))
