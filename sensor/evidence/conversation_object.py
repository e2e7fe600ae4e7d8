"""The JSON objects of a conversation, the same for the API and the commands.

Runs in the API process and in ``sensor evidence``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sensor.evidence.conversation import Missing
from sensor.evidence.json_object import match_object, stored_object
from sensor.evidence.stored import StoredMatch
from sensor.evidence.stored_conversation import PacketPlace, StoredConversation
from sensor.evidence.transcript import Passage
from sensor.text import utc_text

_NAMES = {part: str(part.name).lower() for part in Missing}


def conversation_object(conversation: StoredConversation) -> dict[str, Any]:
    """Return a conversation without its packets as an object for JSON."""
    five_tuple, note = conversation.five_tuple, conversation.note
    to_server, to_client = (conversation.direction(to_server=side) for side in (True, False))
    ended = conversation.ended
    return {
        "conversation": conversation.number,
        "devid": conversation.devid,
        "first_us": conversation.first_us,
        "first": f"{utc_text(conversation.first_us)}Z",
        "last_us": conversation.last_us,
        "last": f"{utc_text(conversation.last_us)}Z",
        "protocol": conversation.transport,
        "sip": five_tuple.source_text,
        "sport": five_tuple.sport,
        "dip": five_tuple.destination_text,
        "dport": five_tuple.dport,
        "vlan": conversation.vlan_ids,
        "community_id": conversation.community_id,
        "packets_to_server": to_server.packets,
        "bytes_to_server": to_server.bytes,
        "packets_to_client": to_client.packets,
        "bytes_to_client": to_client.bytes,
        "ended": None if ended is None else ended.name.lower(),
        "complete": conversation.is_complete,
        "missing": None
        if note is None
        else [words for part, words in _NAMES.items() if part in note.missing],
        "why_incomplete": conversation.why_incomplete,
        "deleted": conversation.has_deleted,
        "lost": None if note is None else note.lost,
        "matches": [
            {"class": rule.rule_class, "rule": rule.rule_id, "type": rule.type, "name": rule.name}
            for rule in conversation.rules
        ],
    }


def packet_object(place: PacketPlace, matches: Iterable[StoredMatch]) -> dict[str, Any]:
    """Return a packet of a conversation and its matches as an object for JSON."""
    return {
        **stored_object(place.stored, matches),
        "after_us": place.after_us,
        **_course(place),
    }


def passage_object(passage: Passage) -> dict[str, Any]:
    """Return a part of a transcript as an object for JSON."""
    stored, parts = passage.place.stored, passage.parts
    return {
        "key": stored.key,
        "time_us": stored.time_us,
        "role": stored.role.name.lower(),
        **_course(passage.place),
        "parts": None if parts is None else [part._asdict() for part in parts],
        "cut": passage.is_cut,
        "matches": list(map(match_object, passage.matches)),
    }


def _course(place: PacketPlace) -> dict[str, Any]:
    stored = place.stored
    return {
        "direction": "to_server" if place.is_to_server else "to_client",
        "payload_bytes": stored.payload_end - stored.payload_start,
    }
