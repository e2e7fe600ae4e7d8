"""Facts about a conversation, as a row of the index and as a record of fixed size.

Used where evidence is written or read. The record is sent to the indexer.
"""

from __future__ import annotations

import struct
from types import NoneType
from typing import Any

from sensor.evidence.conversation import CONVERSATION_MAX, ConversationNote, Ending, Missing
from sensor.evidence.index_connection import DamagedRowError
from sensor.evidence.message import MalformedMessageError
from sensor.model import FiveTuple

_RECORD = struct.Struct("<QQQHHHHHBBBB16s16s")
_TAGS_MAX = 2
_MISSING_ALL = int(~Missing(0))
_NOTE_TYPES = {(int, int, bytes, int, bytes, int, vlan, int, int, int, int) for vlan in (bytes, NoneType)}


def note_row(note: ConversationNote) -> tuple[Any, ...]:
    """Return the values for the table ``conversation``."""
    vlan = b"".join(tci.to_bytes(2, "big") for tci in note.vlan) or None
    known = int(note.ended), int(note.missing), note.lost, note.packets
    return note.conversation, *note.five_tuple, vlan, *known


def note_of_row(row: tuple[Any, ...]) -> ConversationNote:
    """Return the note in a row of the table ``conversation``.

    Raises:
        DamagedRowError: it holds something else.
    """
    if tuple(map(type, row)) not in _NOTE_TYPES:
        raise DamagedRowError("a conversation is damaged")
    conversation, protocol, source, sport, destination, dport, vlan, ended, missing, lost, packets = row
    five_tuple = FiveTuple(protocol, source, sport, destination, dport)
    tags = tags_of(vlan)
    note = ConversationNote(conversation, five_tuple, tags, ended, missing, lost, packets)
    if not _is_sound(note) or {len(source), len(destination)} not in ({4}, {16}):
        raise DamagedRowError("a conversation is damaged")
    return note._replace(ended=Ending(ended), missing=Missing(missing))


def tags_of(vlan: bytes | None) -> tuple[int, ...]:
    """Return the tag control information in the column ``vlan`` of a row."""
    return tuple(int.from_bytes(vlan[at : at + 2], "big") for at in range(0, len(vlan), 2)) if vlan else ()


def pack_note(note: ConversationNote) -> bytes:
    """Return a note as a record."""
    protocol, source, sport, destination, dport = note.five_tuple
    tags = note.vlan[:_TAGS_MAX]
    return _RECORD.pack(
        note.conversation,
        note.lost,
        note.packets,
        note.missing,
        sport,
        dport,
        *tags,
        *[0] * (_TAGS_MAX - len(tags)),
        note.ended,
        protocol,
        len(source),
        len(tags),
        source,
        destination,
    )


def unpack_note(data: bytes) -> ConversationNote:
    """Return the note that `pack_note` packed.

    Raises:
        MalformedMessageError: this is something else.
    """
    if len(data) != _RECORD.size:
        raise MalformedMessageError(f"a conversation of {len(data)} bytes")
    (
        conversation, lost, packets, missing, sport, dport, outer, inner, ended, protocol, width, tags,
        source, destination,
    ) = _RECORD.unpack(data)  # fmt: skip
    five_tuple = FiveTuple(protocol, source[:width], sport, destination[:width], dport)
    note = ConversationNote(conversation, five_tuple, (outer, inner)[:tags], ended, missing, lost, packets)
    if not _is_sound(note) or width not in (4, 16) or tags > _TAGS_MAX:
        raise MalformedMessageError("a conversation that cannot be")
    return note._replace(ended=Ending(ended), missing=Missing(missing))


def _is_sound(note: ConversationNote) -> bool:
    return (
        0 < note.conversation <= CONVERSATION_MAX
        and 0 <= note.lost < 1 << 63
        and 0 <= note.packets < 1 << 63
        and note.ended in tuple(Ending)
        and not note.missing & ~_MISSING_ALL
    )
