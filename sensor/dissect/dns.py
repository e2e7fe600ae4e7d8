"""A DNS message: its header and its questions; runs wherever `dissect` does. Answers are data."""

from __future__ import annotations

from sensor.dissect.layer import CutShortError, FrameReader, flags, hexadecimal, named
from sensor.text import printable

_TYPES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    65: "HTTPS",
    255: "ANY",
}
_FLAGS = {0x8000: "response", 0x0400: "authoritative", 0x0200: "truncated", 0x0100: "recursion desired"}
_RESPONSE_CODES = {0: "no error", 2: "server failure", 3: "no such name", 5: "refused"}
QUESTIONS_MAX = 16
NAME_MAX = 255
_POINTER = 0xC0


def dns(cursor: FrameReader) -> None:
    """Read the header and the questions (RFC 1035, section 4.1)."""
    cursor.begin("DNS")
    _message(cursor)


def dns_stream(cursor: FrameReader) -> None:
    """Read a message as TCP carries it: its length in front (RFC 1035, section 4.2.2)."""
    cursor.begin("DNS")
    cursor.number("length", 2)
    _message(cursor)


def _message(cursor: FrameReader) -> None:
    origin = cursor.position
    cursor.number("id", 2, hexadecimal)
    word = cursor.number("flags", 2, lambda value: flags(value, _FLAGS))
    cursor.note("response code", named(word & 0x0F, _RESPONSE_CODES), origin + 3, origin + 4)
    questions = cursor.number("questions", 2)
    for name in ("answers", "authorities", "additionals"):
        cursor.number(name, 2)
    for _ in range(min(questions, QUESTIONS_MAX)):
        start = cursor.position
        cursor.note("question", _name(cursor, origin), start, cursor.position)
        cursor.number("question type", 2, _TYPES)
        cursor.number("question class", 2)


def _name(cursor: FrameReader, origin: int) -> str:
    """Read a name and move behind it; what a pointer leads to is read where it stands.

    Each pointer has to lead further back than the last, so that no message keeps us in a circle.
    """
    labels: list[bytes] = []
    frame, at, limit = cursor.frame, cursor.position, cursor.position
    behind: int | None = None
    while at < cursor.end:
        size = frame[at]
        if size & _POINTER == _POINTER and at + 2 <= cursor.end:
            behind = behind or at + 2
            at = origin + (int.from_bytes(frame[at : at + 2]) & 0x3FFF)
            if at >= limit:
                break
            limit = at
            continue
        at += 1 + size
        if not size:
            cursor.take((behind or at) - cursor.position)
            return ".".join(printable(label) for label in labels) or "."
        labels.append(frame[at - size : min(at, cursor.end)])
        if size & _POINTER or sum(map(len, labels)) > NAME_MAX:
            break
    cursor.position = cursor.end
    raise CutShortError
