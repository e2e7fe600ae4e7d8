"""The fields of an event: Suricata's, with Suricata's meanings, and the location of the evidence."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from event_samples import NOON_NS, SERVICE, THREAT, item

from sensor.events.eve import EventOptions, alerts, count, flow_id, objects, packets
from sensor.evidence.block import block_of_objects
from sensor.evidence.community_id import community_id
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.writer import Chunk
from sensor.model import Evidence, FiveTuple, Role
from sensor.rules.engine.http_payload import RFC9110

OPTIONS = EventOptions("probe", 3, 0, None)
FILE = Path("/e/3/202306181200.pcap")

EVE_ALERT = {
    "type": "object",
    "required": ["timestamp", "event_type", "src_ip", "dest_ip", "proto", "alert"],
    "properties": {
        "timestamp": {"pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}[+-]\d{4}$"},
        "flow_id": {"type": "integer", "minimum": 0, "maximum": (1 << 53) - 1},
        "in_iface": {"type": "string"},
        "event_type": {"const": "alert"},
        "host": {"type": "string"},
        "vlan": {"type": "array", "items": {"type": "integer", "maximum": 4095}, "minItems": 1},
        "src_ip": {"type": "string"},
        "src_port": {"type": "integer"},
        "dest_ip": {"type": "string"},
        "dest_port": {"type": "integer"},
        "proto": {"type": "string"},
        "community_id": {"type": "string", "pattern": "^1:[A-Za-z0-9+/]{27}=$"},
        "payload": {"type": "string", "contentEncoding": "base64"},
        "payload_printable": {"type": "string"},
        "alert": {
            "type": "object",
            "required": ["action", "gid", "signature_id", "rev", "signature", "category", "severity"],
            "properties": {
                "action": {"enum": ["allowed", "blocked"]},
                "gid": {"type": "integer"},
                "signature_id": {"type": "integer"},
                "rev": {"type": "integer"},
                "signature": {"type": "string"},
                "category": {"type": "string"},
                "severity": {"type": "integer", "minimum": 1, "maximum": 4},
            },
            "additionalProperties": False,
        },
        "sensor": {"type": "object"},
    },
    "additionalProperties": False,
}
"""The part of Suricata's own schema that describes alerts, and our object ``sensor``."""


def lines(
    *items: Evidence, options: EventOptions = OPTIONS, path: Path | None = FILE
) -> list[dict[str, Any]]:
    """Return the events of these items; check each against the schema."""
    found = packets(Chunk(path, 24, block_of_objects(items)), RFC9110)
    events = [json.loads(event.line) for event in alerts(found, options)]
    for event in events:
        jsonschema.validate(event, EVE_ALERT)
    return events


def test_an_event_in_full() -> None:
    """A match that has a value for every field."""
    options = EventOptions("probe", 3, 100, "https://probe:8321")
    one = item(7, b'\0id= union "\xff', (SERVICE,))._replace(conversation=NOON_NS // 1000)
    [event] = lines(one, options=options)
    assert event == {
        "timestamp": "2023-06-18T12:00:00.000007+0000",
        "flow_id": event["flow_id"],
        "in_iface": "lo",
        "event_type": "alert",
        "vlan": [7],
        "src_ip": "10.0.0.1",
        "src_port": 7,
        "dest_ip": "10.0.0.2",
        "dest_port": 80,
        "proto": "TCP",
        "community_id": community_id(FiveTuple(6, b"\x0a\0\0\1", 7, b"\x0a\0\0\2", 80)),
        "host": "probe",
        "payload": base64.b64encode(b'\0id= union "\xff').decode(),
        "payload_printable": '.id= union ".',
        "alert": {
            "action": "allowed",
            "gid": 1,
            "signature_id": 11001,
            "rev": 0,
            "signature": "OpenSSH",
            "category": "SSH",
            "severity": 3,
        },
        "sensor": {
            "class": "service",
            "version": "9.2",
            "vendor": "OpenBSD",
            "os": "Unix",
            "start": 5,
            "end": 10,
            "devid": 3,
            "conversation": NOON_NS // 1000,
            "file": "/e/3/202306181200.pcap",
            "offset": 24,
            "url": "https://probe:8321/?since_us=1687089600000007&until_us=1687089600000008&devid=3",
        },
    }
    assert datetime.strptime(event["timestamp"], "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() == NOON_NS / 1e9 + 7e-6


def test_an_event_for_each_match() -> None:
    """Threats have severity 1; a frame kept only for its flow makes no alert."""
    events = lines(item(0, rules=(THREAT, SERVICE)), item(1, rules=()), item(2))
    assert [(e["src_port"], e["alert"]["signature_id"], e["alert"]["severity"]) for e in events] == [
        (0, 51001, 1),
        (0, 11001, 3),
        (2, 51001, 1),
    ]


def test_context_is_no_event() -> None:
    """Neither as an alert nor as an object of ``--json``; frames that are kept for their flow are objects."""
    context = [item(1, rules=())._replace(role=role) for role in (Role.BEFORE, Role.AFTER)]
    items = [item(0), *context, item(2, rules=())]
    assert [event["src_port"] for event in lines(*items)] == [0]
    block = block_of_objects(items)
    found = [json.loads(event.line) for event in objects(packets(Chunk(FILE, 24, block), RFC9110))]
    assert [one["sport"] for one in found] == [0, 2]
    assert count(block) == (1, 2)


def test_messages_have_a_community_id() -> None:
    """Type and code of ICMP are read from the frame."""
    echo = item(0, b"union")._replace(
        five_tuple=FiveTuple(1, bytes([192, 168, 0, 89]), 0, bytes([192, 168, 0, 1]), 0),
        frame=bytes(34) + b"\x08" + bytes(7) + b"union",
        payload_start=42,
        payload_end=47,
    )
    assert lines(echo)[0]["community_id"] == "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="


def test_the_payload_is_bounded() -> None:
    """``events_payload`` limits it; by default there is none."""
    [event] = lines(item(0, b"0123456789"), options=EventOptions("probe", 3, 4, None))
    assert (event["payload"], event["payload_printable"]) == (base64.b64encode(b"0123").decode(), "0123")
    assert "payload" not in lines(item(0))[0]


def test_offsets_are_those_of_the_file(tmp_path: Path) -> None:
    """The record at the offset is the packet of the event, even if items before it had no match."""
    matches = ((), (SERVICE,), (), (THREAT,))
    items = [item(number, b"x" * number, matches[number % 4]) for number in range(10)]
    writer = IndexedWriter(tmp_path, 3)
    chunks = writer.write(block_of_objects(items))
    writer.close()
    events = chain.from_iterable(alerts(packets(chunk, RFC9110), OPTIONS) for chunk in chunks)
    found = [json.loads(event.line) for event in events]
    assert [event["src_port"] for event in found] == [1, 5, 9, 3, 7]  # threats have a file of their own
    for event in found:
        with Path(event["sensor"]["file"]).open("rb") as file:
            file.seek(event["sensor"]["offset"] + 16)
            frame = items[event["src_port"]].frame
            assert file.read(len(frame)) == frame


def test_an_event_without_stored_evidence() -> None:
    """Evidence that could not be written still makes an event, without file, offset and URL."""
    [event] = lines(item(0), path=None, options=EventOptions("probe", 3, 0, "http://probe"))
    assert event["sensor"].keys() == {"class", "start", "end", "devid"}


def with_endpoints(protocol: int, source: str, sport: int, destination: str, dport: int) -> Evidence:
    """Return an evidence item of this flow, without VLAN."""
    ends = (bytes.fromhex(source), sport, bytes.fromhex(destination), dport)
    return item(0)._replace(five_tuple=FiveTuple(protocol, *ends), vlan=())


def test_both_directions_have_the_same_flow_id() -> None:
    """Other flows have other ids; the id of a flow is the same in every run."""
    there = with_endpoints(6, "0a000001", 1000, "0a000002", 80)
    back = with_endpoints(6, "0a000002", 80, "0a000001", 1000)
    others = [
        with_endpoints(17, "0a000001", 1000, "0a000002", 80),
        with_endpoints(6, "0a000001", 80, "0a000002", 1000),
        with_endpoints(6, "0a000001", 1001, "0a000002", 80),
        there._replace(vlan=(7,)),
    ]
    assert flow_id(there) == flow_id(back) == 4249602851903736
    assert len({flow_id(one) for one in [there, *others]}) == 5
    assert flow_id(there._replace(vlan=(7,))) == flow_id(there._replace(vlan=(0x2007,)))


@pytest.mark.parametrize(("protocol", "name"), [(1, "ICMP"), (58, "IPv6-ICMP"), (132, "132")])
def test_protocols_without_ports_have_none(protocol: int, name: str) -> None:
    """The ports are absent, not 0; ICMPv6 has Suricata's name."""
    [event] = lines(with_endpoints(protocol, "20010db8" + "00" * 11 + "01", 0, "ff02" + "00" * 13 + "01", 0))
    assert event["proto"] == name
    assert (event["src_ip"], event["dest_ip"]) == ("2001:db8::1", "ff02::1")
    assert not {"src_port", "dest_port", "vlan"} & event.keys()
