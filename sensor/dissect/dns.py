"""DNS messages: header and questions; answers are data. Runs where `dissect` runs."""

from __future__ import annotations

from sensor.dissect.frame_reader import CutShortError, FrameReader, flags, hexadecimal, named
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


def dns(reader: FrameReader) -> None:
    """Read the header and the questions (RFC 1035, section 4.1)."""
    reader.begin_layer("DNS")
    _message(reader)


def dns_stream(reader: FrameReader) -> None:
    """Read a message over TCP, which starts with its length (RFC 1035, section 4.2.2)."""
    reader.begin_layer("DNS")
    reader.read_number("length", 2)
    _message(reader)


def _message(reader: FrameReader) -> None:
    origin = reader.position
    reader.read_number("id", 2, hexadecimal)
    word = reader.read_number("flags", 2, lambda value: flags(value, _FLAGS))
    reader.add_field("response code", named(word & 0x0F, _RESPONSE_CODES), origin + 3, origin + 4)
    questions = reader.read_number("questions", 2)
    for name in ("answers", "authorities", "additionals"):
        reader.read_number(name, 2)
    for _ in range(min(questions, QUESTIONS_MAX)):
        start = reader.position
        reader.add_field("question", _name(reader, origin), start, reader.position)
        reader.read_number("question type", 2, _TYPES)
        reader.read_number("question class", 2)


def _name(reader: FrameReader, origin: int) -> str:
    """Read a name and move behind it, following compression pointers (RFC 1035, section 4.1.4).

    Each pointer must lead further back than the one before, so that no message makes a loop.
    """
    labels: list[bytes] = []
    frame, at, limit = reader.frame, reader.position, reader.position
    behind: int | None = None
    while at < reader.end:
        size = frame[at]
        if size & _POINTER == _POINTER and at + 2 <= reader.end:
            behind = behind or at + 2
            at = origin + (int.from_bytes(frame[at : at + 2]) & 0x3FFF)
            if at >= limit:
                break
            limit = at
            continue
        at += 1 + size
        if not size:
            reader.read((behind or at) - reader.position)
            return ".".join(printable(label) for label in labels) or "."
        labels.append(frame[at - size : min(at, reader.end)])
        if size & _POINTER or sum(map(len, labels)) > NAME_MAX:
            break
    reader.position = reader.end
    raise CutShortError
