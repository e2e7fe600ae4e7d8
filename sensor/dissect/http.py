"""HTTP messages: first line and headers. Runs where `dissect` runs."""

from __future__ import annotations

import re

from sensor.dissect.frame_reader import FrameReader
from sensor.text import printable

_FIRST_LINE = re.compile(rb"(?:[A-Z-]{3,16} [^\r\n]* HTTP/1|HTTP/1)")
_FIRST_LINE_MAX = 8192
"""Longest first line that is recognized, bytes."""
HEADERS_MAX = 200


def is_http(reader: FrameReader) -> bool:
    """Return True if a request or status line starts here (RFC 9112)."""
    end = min(reader.end, reader.position + _FIRST_LINE_MAX)
    return _FIRST_LINE.match(reader.frame, reader.position, end) is not None


def http(reader: FrameReader) -> None:
    """Read the parts of the first line, and each header; the body is data (RFC 9112)."""
    reader.begin_layer("HTTP")
    first = True
    for _ in range(HEADERS_MAX):
        start, end = reader.position, _line_end(reader)
        line = reader.read(end - start)
        content = line.rstrip(b"\r\n")
        if not content:  # end of the head, or of the frame
            return
        if first:
            _first_line(reader, content, start)
            first = False
        else:
            name, colon, value = content.partition(b":")
            shown = (printable(name), printable(value.strip())) if colon else ("line", printable(content))
            reader.add_field(*shown, start, start + len(content))


def _line_end(reader: FrameReader) -> int:
    newline = reader.frame.find(b"\n", reader.position, reader.end)
    return reader.end if newline < 0 else newline + 1


def _first_line(reader: FrameReader, line: bytes, start: int) -> None:
    is_response = line.startswith(b"HTTP/")
    names = ("version", "status", "reason") if is_response else ("method", "target", "version")
    head, _, rest = line.partition(b" ")
    middle, _, last = rest.partition(b" ") if is_response else rest.rpartition(b" ")
    position = start
    for name, part in zip(names, (head, middle, last), strict=True):
        if part:
            reader.add_field(name, printable(part), position, position + len(part))
        position += len(part) + 1
