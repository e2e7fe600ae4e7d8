"""Matches as JSON objects. Used by ``sensor read`` and the event sender."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sensor.model import Evidence, Match
from sensor.protocols import protocol_name
from sensor.text import printable


def match_objects(item: Evidence, interface: str) -> Iterator[dict[str, Any]]:
    """Yield one object per match, ready for JSON; one without a rule if the frame was kept for its flow."""
    five_tuple = item.five_tuple
    packet = {
        "protocol": protocol_name(five_tuple.protocol),
        "sip": five_tuple.source_text,
        "sport": five_tuple.sport,
        "dip": five_tuple.destination_text,
        "dport": five_tuple.dport,
        "vlan": item.vlan_ids,
        "interface": interface,
    }
    for match in item.matches or (None,):
        matched = match.matched(item.payload) if match else None
        yield {
            "time_us": item.timestamp_ns // 1000,
            **_match_fields(match),
            **packet,
            "start": match.start if match else None,
            "end": match.end if match else None,
            "text": None if matched is None else printable(matched),
            "incomplete": item.incomplete,
        }


def _match_fields(match: Match | None) -> dict[str, Any]:
    if match is None:
        return dict.fromkeys(("class", "rule", "type", "name", "version", "vendor", "os"))
    rule = match.rule
    return {
        "class": rule.rule_class,
        "rule": rule.rule_id,
        "type": rule.type,
        "name": rule.name,
        "version": match.version,
        "vendor": rule.vendor,
        "os": rule.os,
    }
