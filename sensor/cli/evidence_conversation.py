"""``sensor evidence conversation`` and ``conversations``: what happened around a match."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from sensor.cli.capture_output import container_of, write_capture
from sensor.cli.conversation_output import conversation_line, head_lines, packet_lines
from sensor.cli.evidence_filters import filters, limit_option
from sensor.cli.evidence_index import evidence_index, warn_of_gaps
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json, print_line, print_lines
from sensor.errors import EvidenceError
from sensor.evidence.conversation_object import conversation_object, packet_object
from sensor.evidence.conversation_search import ConversationSearch, the_one
from sensor.evidence.export import Losses, encoded, label
from sensor.evidence.search import LOCATE_NS, Query
from sensor.evidence.stored import Stored, StoredRecords
from sensor.evidence.stored_conversation import StoredConversation
from sensor.rules.engine.budget import Budget

_PAGE = 100
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")


@click.command("conversations")
@filters
@limit_option("conversations")
@setting_options("evidence conversations")
@_json
def conversations_command(
    query: Query, limit: int, evidence: Path | None, config: Path | None, as_json: bool
) -> None:
    """List conversations, newest first.

    The filters are those of packets: a conversation is listed if one of its matches meets them.
    """
    if query.text is not None:
        raise click.UsageError("conversations are not searched for text; use sensor evidence list --text")
    index = evidence_index(evidence, config)
    search = ConversationSearch(index.directory)
    before = None
    while limit:
        found, before = search.page(query, min(limit, _PAGE), before)
        for conversation in found:
            if as_json:
                print_json(conversation_object(conversation))
            else:
                print_line(conversation_line(conversation))
        limit -= len(found)
        if before is None:
            break
    warn_of_gaps(index)


@click.command("conversation")
@click.argument("key", metavar="KEY")
@click.option(
    "--devid", type=click.IntRange(0), metavar="NUMBER", help="Only this device.  [default: all devices]"
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the packets to a .pcap or .pcapng file instead.",
)
@setting_options("evidence conversation")
@_json
def conversation_command(
    key: str,
    devid: int | None,
    output: Path | None,
    evidence: Path | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Show the packets around a match.

    They are printed in order, with direction, time since the one before, and payload as text.

    KEY is the number of the conversation, or the time of any of its packets in microseconds since 1970, or
    the key of one. `sensor evidence list` shows them.
    """
    index = evidence_index(evidence, config)
    conversation = the_one(ConversationSearch(index.directory).find(key, devid), key)
    if output is not None:
        note = conversation.note
        losses = Losses(note.lost, conversation.first_us, conversation.last_us) if note else None
        write_capture(output, encoded(conversation.packets, container_of(output), losses))
    elif as_json:
        _print_object(conversation)
    else:
        _print_text(conversation)
    warn_of_gaps(index)


def _print_object(conversation: StoredConversation) -> None:
    budget = Budget(LOCATE_NS)
    with closing(StoredRecords()) as records:
        packets = []
        for place in conversation.places():
            payload = _payload(records, place.stored)
            shown = packet_object(place, records.matches(place.stored, budget))
            packets.append({**shown, "payload": None if payload is None else payload.hex()})
    print_json({**conversation_object(conversation), "packets": packets})


def _print_text(conversation: StoredConversation) -> None:
    print_lines(head_lines(conversation))
    budget = Budget(LOCATE_NS)
    with closing(StoredRecords()) as records:
        for place in conversation.places():
            matches = records.matches(place.stored, budget)
            print_lines(["", *packet_lines(place, map(label, matches), _payload(records, place.stored))])


def _payload(records: StoredRecords, stored: Stored) -> bytes | None:
    """Return the payload of a packet; None if it cannot be read any more."""
    try:
        frame = records.read(stored).frame
    except EvidenceError:
        return None
    return frame[stored.payload_start : stored.payload_end]
