"""A conversation as text: the payloads of both sides, with the matches marked.

Runs in the API process and in ``sensor evidence``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from sensor.errors import EvidenceError
from sensor.evidence.stored import StoredMatch, StoredRecords
from sensor.evidence.stored_conversation import PacketPlace, StoredConversation
from sensor.rules.engine.budget import Budget
from sensor.text import shown


class TextPart(NamedTuple):
    """A part of a payload as text, without the edge of a match in it."""

    text: str
    matches: list[int]
    """Positions of the matches that it belongs to, in the list of its packet."""


class Passage(NamedTuple):
    """A packet with payload, and its text."""

    place: PacketPlace
    matches: list[StoredMatch]
    parts: list[TextPart] | None
    """None if the packet cannot be read any more."""
    is_cut: bool
    """True if the end of the payload was left out."""


def payload_text(payload: bytes) -> str:
    r"""Return a payload as lines of text.

    Bytes that are not UTF-8, and characters that show nothing, are escapes such as ``\xff`` or ``\u202e``.
    """
    text = payload.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    return "\n".join(map(shown, text.split("\n")))


def text_parts(payload: bytes, matches: Sequence[StoredMatch]) -> list[TextPart]:
    """Return the text of a payload, cut where matches start and end."""
    located = [(at, one.start, one.end) for at, one in enumerate(matches) if one.start is not None]
    edges = {0, len(payload)}.union(*((start, end) for _, start, end in located))
    inside = sorted(edge for edge in edges if edge is not None and edge <= len(payload))
    return [
        TextPart(
            payload_text(payload[low:high]),
            [at for at, start, end in located if start <= low and end is not None and high <= end],
        )
        for low, high in pairwise(inside)
    ]


def transcript(
    conversation: StoredConversation, records: StoredRecords, budget: Budget, limit_bytes: int
) -> Iterator[Passage]:
    """Yield the packets with payload in order, up to a number of bytes of payload.

    If there is more, the last one is cut. Matches that cannot be located within the ``budget`` mark no text.
    """
    for place in conversation.places():
        stored = place.stored
        length = stored.payload_end - stored.payload_start
        if not length:
            continue
        try:
            frame = records.read(stored).frame
        except EvidenceError:
            yield Passage(place, stored.matches(None), None, False)
            continue
        payload = frame[stored.payload_start : stored.payload_end]
        matches = stored.matches(frame, budget) if stored.rules else []
        is_cut = len(payload) > limit_bytes
        yield Passage(place, matches, text_parts(payload[:limit_bytes], matches), is_cut)
        if is_cut:
            return
        limit_bytes -= len(payload)
