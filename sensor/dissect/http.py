"""The head of an HTTP message: first line and headers; runs wherever `dissect` does."""

from __future__ import annotations

import re

from sensor.dissect.layer import FrameReader
from sensor.text import printable

_BEGINNING = re.compile(rb"(?:[A-Z-]{3,16} [^\r\n]* HTTP/1|HTTP/1)")
_LOOK = 8192
"""How far a first line is looked for."""
HEADERS_MAX = 200


def is_http(cursor: FrameReader) -> bool:
    """Whether a request or status line is here (RFC 9112)."""
    return (
        _BEGINNING.match(cursor.frame, cursor.position, min(cursor.end, cursor.position + _LOOK)) is not None
    )


def http(cursor: FrameReader) -> None:
    """Read the first line by its parts, and each header; the body is data (RFC 9112)."""
    cursor.begin("HTTP")
    first = True
    for _ in range(HEADERS_MAX):
        start, end = cursor.position, _line_end(cursor)
        line = cursor.take(end - start)
        content = line.rstrip(b"\r\n")
        if not content:  # the head is over, or the frame is
            return
        if first:
            _first_line(cursor, content, start)
            first = False
        else:
            name, colon, value = content.partition(b":")
            shown = (printable(name), printable(value.strip())) if colon else ("line", printable(content))
            cursor.note(*shown, start, start + len(content))


def _line_end(cursor: FrameReader) -> int:
    newline = cursor.frame.find(b"\n", cursor.position, cursor.end)
    return cursor.end if newline < 0 else newline + 1


def _first_line(cursor: FrameReader, line: bytes, start: int) -> None:
    is_response = line.startswith(b"HTTP/")
    names = ("version", "status", "reason") if is_response else ("method", "target", "version")
    head, _, rest = line.partition(b" ")
    middle, _, last = rest.partition(b" ") if is_response else rest.rpartition(b" ")
    position = start
    for name, part in zip(names, (head, middle, last), strict=True):
        if part:
            cursor.note(name, printable(part), position, position + len(part))
        position += len(part) + 1
