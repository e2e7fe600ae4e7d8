"""A piece of evidence as an object for JSON: in the terminal and in the HTTP interface it is the same.

Runs in the process of the API and in `sensor evidence`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sensor.evidence.search import Stored
from sensor.protocols import protocol_name


def time_text(time_us: int, separator: str = "T") -> str:
    """Write a time in UTC, to the microsecond."""
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%d}{separator}{moment:%H:%M:%S}.{time_us % 1_000_000:06}"


def stored_object(stored: Stored) -> dict[str, Any]:
    """Return one piece, ready for JSON."""
    five_tuple = stored.five_tuple
    return {
        "key": stored.key,
        "devid": stored.devid,
        "time_us": stored.time_us,
        "time": f"{time_text(stored.time_us)}Z",
        "caplen": stored.caplen,
        "wirelen": stored.wirelen,
        "protocol": protocol_name(five_tuple.protocol),
        "sip": five_tuple.source_text,
        "sport": five_tuple.sport,
        "dip": five_tuple.destination_text,
        "dport": five_tuple.dport,
        "vlan": [tci & 0x0FFF for tci in stored.vlan],
        "interface": stored.interface,
        "file": stored.path.name,
        "offset": stored.offset,
        "matches": [
            {
                "class": match.rule_class,
                "rule": match.rule_id,
                "type": match.type,
                "name": match.name,
                "version": match.version,
                "vendor": match.vendor,
                "os": match.os,
                "start": match.start,
                "end": match.end,
            }
            for match in stored.matches
        ],
    }
