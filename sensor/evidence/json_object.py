"""The JSON object of an item of evidence, the same for the API and the commands.

Runs in the API process and in ``sensor evidence``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sensor.evidence.stored import Stored, StoredMatch
from sensor.protocols import protocol_name
from sensor.text import utc_text


def stored_object(stored: Stored, matches: Iterable[StoredMatch]) -> dict[str, Any]:
    """Return an item and its matches as an object for JSON."""
    five_tuple = stored.five_tuple
    return {
        "key": stored.key,
        "devid": stored.devid,
        "time_us": stored.time_us,
        "time": f"{utc_text(stored.time_us)}Z",
        "caplen": stored.caplen,
        "wirelen": stored.wirelen,
        "protocol": protocol_name(five_tuple.protocol),
        "sip": five_tuple.source_text,
        "sport": five_tuple.sport,
        "dip": five_tuple.destination_text,
        "dport": five_tuple.dport,
        "vlan": stored.vlan_ids,
        "interface": stored.interface,
        "file": stored.path.name,
        "offset": stored.offset,
        "matches": list(map(match_object, matches)),
        "incomplete": stored.incomplete,
        "role": stored.role.name.lower(),
        "conversation": stored.conversation,
    }


def match_object(match: StoredMatch) -> dict[str, Any]:
    """Return a match as an object for JSON."""
    return {
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
