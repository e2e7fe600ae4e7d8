"""Evidence as lines of JSON: alerts in Suricata's EVE format, and the objects of ``--json``.

Runs in the event sender. Fields: https://docs.suricata.io/en/latest/output/eve/eve-json-format.html. Fields
that Suricata does not have are in the object ``sensor``. Unknown values are left out; nothing is invented.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.community_id import community_id, icmp_message
from sensor.evidence.explain_block import explained
from sensor.evidence.writer import Chunk
from sensor.match_objects import match_objects
from sensor.model import Evidence, Match, Role
from sensor.protocols import ICMPV6, protocol_name
from sensor.rules.engine.http_payload import HttpReading
from sensor.text import interface_name, printable, to_json, utc_text

SEVERITY_THREAT, SEVERITY_OTHER = 1, 3
"""As in Suricata's rules: 1 is the worst; names of hosts and services are informational."""
_FLOW_ID_BITS = 53
"""JavaScript and others read JSON numbers as doubles and lose any bits above these."""


class Event(NamedTuple):
    """One line for the receivers."""

    line: bytes
    """JSON, in ASCII, without a newline."""
    time_us: int
    """Time of the packet, in microseconds since the epoch."""
    severity: int


class EventOptions(NamedTuple):
    """The settings that decide what a line contains."""

    host: str
    devid: int
    payload: int
    """Maximum bytes of payload in a line; 0: none."""
    url: str | None
    """Public URL of the evidence API, without a trailing slash."""


class Packet(NamedTuple):
    """An item of evidence, and where it is stored."""

    item: Evidence
    path: Path | None
    """The file; None if the item could not be written."""
    offset: int
    """Offset of the item's record in the file."""
    interface: str
    """Name of the interface."""


def packets(chunk: Chunk, http: HttpReading) -> list[Packet]:
    """Return the items of a chunk, with their matches located in the payloads."""
    names = {index: interface_name(index) for index in np.unique(chunk.block.items["interface"]).tolist()}
    return [
        Packet(item, chunk.path, offset, names[item.interface])
        for item, offset in zip(explained(chunk.block, http), chunk.offsets().tolist(), strict=False)
    ]


def alerts(found: Iterable[Packet], options: EventOptions) -> Iterator[Event]:
    """Yield one event per match; frames kept only for their flow have no match and no event."""
    for packet in found:
        if packet.item.matches:
            head = _head(packet, options)
            location = _location(packet, options)
            if packet.item.incomplete:
                location["incomplete"] = True
            for match in packet.item.matches:
                fields = {**head, "alert": _alert(match), "sensor": {**_sensor(match), **location}}
                yield _event(fields, packet.item, _severity(match))


def objects(found: Iterable[Packet]) -> Iterator[Event]:
    """Yield the objects of ``--json``: one per match, and one per frame kept only for its flow.

    Context is no event.
    """
    for packet in found:
        if packet.item.role != Role.HIT:
            continue
        for fields in match_objects(packet.item, packet.interface):
            yield _event(fields, packet.item, SEVERITY_OTHER)


def count(block: EvidenceBlock) -> tuple[int, int]:
    """Return the numbers of events that `alerts` and `objects` yield for a block."""
    matches = len(block.rules)
    flows = (block.items["matches"] == 0) & ~block.is_context
    return matches, matches + int(np.count_nonzero(flows))


def _event(fields: dict[str, Any], item: Evidence, severity: int) -> Event:
    line = to_json(fields, compact=True).encode("ascii")
    return Event(line, item.timestamp_ns // 1000, severity)


def _head(packet: Packet, options: EventOptions) -> dict[str, Any]:
    """Return the fields that all alerts of one packet share."""
    item = packet.item
    protocol, _, sport, _, dport = item.five_tuple
    head: dict[str, Any] = {
        "timestamp": f"{utc_text(item.timestamp_ns // 1000)}+0000",
        "flow_id": flow_id(item),
        "in_iface": packet.interface,
        "event_type": "alert",
    }
    if item.vlan:
        head["vlan"] = item.vlan_ids
    head["src_ip"] = item.five_tuple.source_text
    if sport or dport:
        head["src_port"] = sport
    head["dest_ip"] = item.five_tuple.destination_text
    if sport or dport:
        head["dest_port"] = dport
    head["proto"] = "IPv6-ICMP" if protocol == ICMPV6 else protocol_name(protocol)
    icmp = icmp_message(item.five_tuple, item.frame, item.payload_start)
    if name := community_id(item.five_tuple, icmp):
        head["community_id"] = name
    head["host"] = options.host
    if options.payload:
        payload = item.payload[: options.payload]
        head |= {"payload": b64encode(payload).decode("ascii"), "payload_printable": printable(payload)}
    return head


def _alert(match: Match) -> dict[str, Any]:
    return {
        "action": "allowed",
        "gid": 1,
        "signature_id": match.rule.rule_id,
        "rev": 0,
        "signature": match.rule.name,
        "category": match.rule.type,
        "severity": _severity(match),
    }


def _severity(match: Match) -> int:
    return SEVERITY_THREAT if match.rule.rule_class == "threat" else SEVERITY_OTHER


def _sensor(match: Match) -> dict[str, Any]:
    rule = match.rule
    named = {
        "version": match.version,
        "vendor": rule.vendor,
        "os": rule.os,
        "start": match.start,
        "end": match.end,
    }
    known = {name: value for name, value in named.items() if value is not None}
    return {"class": rule.rule_class, **known}


def _location(packet: Packet, options: EventOptions) -> dict[str, Any]:
    """Return where the packet is stored; no file and offset if it could not be written."""
    location: dict[str, Any] = {"devid": options.devid}
    if packet.item.conversation:
        location["conversation"] = packet.item.conversation
    if packet.path:
        location |= {"file": str(packet.path), "offset": packet.offset}
        if options.url:
            time_us = packet.item.timestamp_ns // 1000
            location["url"] = (
                f"{options.url}/?since_us={time_us}&until_us={time_us + 1}&devid={options.devid}"
            )
    return location


def flow_id(item: Evidence) -> int:
    """Return the id of a five-tuple and VLAN: the same in both directions, on every host, in every run."""
    protocol, source, sport, destination, dport = item.five_tuple
    ends = sorted(((source, sport), (destination, dport)))
    flow = repr((protocol, ends, item.vlan_ids)).encode("ascii")
    return int.from_bytes(blake2b(flow, digest_size=8).digest(), "big") >> (64 - _FLOW_ID_BITS)
