"""Output of ``sensor evidence conversation`` and ``conversations``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sensor.evidence.stored_conversation import ENDINGS, PacketPlace, StoredConversation
from sensor.evidence.transcript import payload_text
from sensor.model import Role
from sensor.text import count_of, endpoint, utc_text


def conversation_line(conversation: StoredConversation) -> str:
    """Return a conversation as one line of text."""
    rules = "; ".join(_rules(conversation))
    packets = count_of(len(conversation.packets), "packet")
    return (
        f"{utc_text(conversation.first_us, ' ')}  {conversation.number}  {rules:<40}  {_ends(conversation)}"
        f"  {packets}, {_completeness(conversation)}"
    )


def head_lines(conversation: StoredConversation) -> Iterator[str]:
    """Yield what is known of a conversation, without its packets."""
    yield f"conversation {conversation.number} of device {conversation.devid}"
    yield f"    {_ends(conversation)}"
    if conversation.vlan_ids:
        yield f"    VLAN {', '.join(map(str, conversation.vlan_ids))}"
    if conversation.community_id:
        yield f"    Community ID {conversation.community_id}"
    first, last = (utc_text(time_us, " ") for time_us in (conversation.first_us, conversation.last_us))
    yield f"    {first} to {last} UTC"
    to_server, to_client = (conversation.direction(to_server=side) for side in (True, False))
    yield (
        f"    to the server {count_of(to_server.packets, 'packet')}, {to_server.bytes:,} bytes;"
        f" to the client {count_of(to_client.packets, 'packet')}, {to_client.bytes:,} bytes"
    )
    if conversation.ended is not None:
        yield f"    {ENDINGS[conversation.ended]}"
    yield f"    {_completeness(conversation)}"
    if conversation.note and conversation.note.lost:
        yield f"    {count_of(conversation.note.lost, 'frame')} of any flow lost meanwhile"
    for rule in _rules(conversation):
        yield f"    match: {rule}"


def packet_lines(place: PacketPlace, matches: Iterable[str], payload: bytes | None) -> Iterator[str]:
    """Yield a packet, what matched it, and its payload as text; None if it cannot be read any more."""
    stored = place.stored
    arrow = ">" if place.is_to_server else "<"
    line = (
        f"{utc_text(stored.time_us, ' ')[11:]}  +{place.after_us / 1e6:.6f} s  {arrow}  {_role(stored.role)}"
        f"  {stored.caplen:>5} bytes"
    )
    labels = "; ".join(matches)
    yield f"{line}  {labels}" if labels else line
    if payload is None:
        yield "    the packet cannot be read any more"
        return
    if payload:
        lines = payload_text(payload).removesuffix("\n").split("\n")
        yield from (f"    {line}".rstrip() for line in lines)


def _role(role: Role) -> str:
    return f"{role.name.lower():<6}"


def _rules(conversation: StoredConversation) -> list[str]:
    return [f"{rule.rule_class} {rule.rule_id} {rule.name}" for rule in conversation.rules]


def _completeness(conversation: StoredConversation) -> str:
    if conversation.is_complete:
        return "complete"
    reasons = "; ".join(conversation.why_incomplete)
    return f"incomplete: {reasons}" if conversation.is_complete is False else f"completeness {reasons}"


def _ends(conversation: StoredConversation) -> str:
    five_tuple = conversation.five_tuple
    source = endpoint(five_tuple.source_text, five_tuple.sport)
    destination = endpoint(five_tuple.destination_text, five_tuple.dport)
    return f"{conversation.transport} {source} > {destination}"
