"""Evidence as lines: alerts in Suricata's EVE form, and the objects of ``--json``. Runs in the sender.

Fields: https://docs.suricata.io/en/latest/output/eve/eve-json-format.html. What Suricata has no field for
stands in an object of our own, ``sensor``. What is not known is absent; nothing is made up.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from sensor.evidence.writer import Chunk
from sensor.match_objects import match_objects
from sensor.model import Evidence, Match
from sensor.text import interface_name, printable, protocol_name

SEVERITY_THREAT, SEVERITY_OTHER = 1, 3
"""As Suricata's rules have it: 1 is worst; what a host or a service is called is for information."""
_FLOW_ID_BITS = 53
"""More than that, JavaScript and others lose of a JSON number."""
_JSON = json.JSONEncoder(separators=(",", ":"))


class Event(NamedTuple):
    """One line for a receiver."""

    line: bytes
    """JSON, in ASCII, without a newline."""
    time_us: int
    """Of the packet."""
    severity: int


class Form(NamedTuple):
    """What the settings say of the lines."""

    host: str
    devid: int
    payload: int
    """Most bytes of payload in a line; 0: none."""
    url: str | None
    """Where the evidence API is seen from outside, without a slash at its end."""


def alerts(chunk: Chunk, form: Form) -> Iterator[Event]:
    """Yield an event for each match; frames that were kept for their flow alone have none."""
    names = _interface_names(chunk)
    for item, offset in zip(chunk.items, chunk.offsets(), strict=False):
        if item.matches:
            head = _head(item, names[item.interface], form)
            where = _where(item, chunk, offset, form)
            for match in item.matches:
                fields = {**head, "alert": _alert(match), "sensor": {**_sensor(match), **where}}
                yield _event(fields, item, _severity(match))


def objects(chunk: Chunk) -> Iterator[Event]:
    """Yield the objects of ``--json``: one a match, and one for a frame that was kept for its flow alone."""
    names = _interface_names(chunk)
    for item in chunk.items:
        for found in match_objects(item, names[item.interface]):
            yield _event(found, item, SEVERITY_OTHER)


def count(chunk: Chunk) -> tuple[int, int]:
    """Return how many events `alerts` and `objects` make of a chunk."""
    matches = sum(len(item.matches) for item in chunk.items)
    return matches, matches + sum(1 for item in chunk.items if not item.matches)


def _interface_names(chunk: Chunk) -> dict[int, str]:
    return {index: interface_name(index) for index in {item.interface for item in chunk.items}}


def _event(fields: dict[str, Any], item: Evidence, severity: int) -> Event:
    line = _JSON.encode(fields).encode("ascii")
    return Event(line, item.timestamp_ns // 1000, severity)


def timestamp(time_us: int, zone: str) -> str:
    """``2026-01-31T23:59:59.123456`` in UTC, and the zone as the format at hand writes it."""
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_us % 1_000_000:06d}{zone}"


def _head(item: Evidence, interface: str, form: Form) -> dict[str, Any]:
    """What all alerts of a packet share."""
    protocol, _, sport, _, dport = item.five_tuple
    head: dict[str, Any] = {
        "timestamp": timestamp(item.timestamp_ns // 1000, "+0000"),
        "flow_id": flow_id(item),
        "in_iface": interface,
        "event_type": "alert",
    }
    if item.vlan:
        head["vlan"] = _vlan(item)
    head["src_ip"] = item.five_tuple.source_text
    if sport or dport:
        head["src_port"] = sport
    head["dest_ip"] = item.five_tuple.destination_text
    if sport or dport:
        head["dest_port"] = dport
    head |= {"proto": "IPv6-ICMP" if protocol == 58 else protocol_name(protocol), "host": form.host}
    if form.payload:
        payload = item.payload[: form.payload]
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
    named = {"version": match.version, "vendor": rule.vendor, "os": rule.os}
    return {
        "class": rule.rule_class,
        **{name: value for name, value in named.items() if value is not None},
        "start": match.start,
        "end": match.end,
    }


def _where(item: Evidence, chunk: Chunk, offset: int, form: Form) -> dict[str, Any]:
    """Where the packet is: nowhere, if it could not be written."""
    where: dict[str, Any] = {"devid": form.devid}
    if chunk.path:
        where |= {"file": str(chunk.path), "offset": offset}
        if form.url:
            where["url"] = f"{form.url}/evidence?time={item.timestamp_ns // 1000}&devid={form.devid}"
    return where


def flow_id(item: Evidence) -> int:
    """Return a number for a five-tuple and VLAN: the same in both directions, on every host, in every run."""
    protocol, source, sport, destination, dport = item.five_tuple
    ends = sorted(((source, sport), (destination, dport)))
    flow = repr((protocol, ends, _vlan(item))).encode("ascii")
    return int.from_bytes(blake2b(flow, digest_size=8).digest(), "big") >> (64 - _FLOW_ID_BITS)


def _vlan(item: Evidence) -> list[int]:
    return [tci & 0x0FFF for tci in item.vlan]
