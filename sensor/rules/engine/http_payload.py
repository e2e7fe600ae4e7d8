"""What an HTTP payload is, where its head ends, and how its text reads percent-decoded.

Runs in the capture workers and in ``sensor read``, once for every packet that carries payload.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from string import hexdigits

import numpy as np
from numpy.typing import NDArray

SHORTEST = 11
"""Bytes: nothing shorter is taken for HTTP."""

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BYTES = {f"{a}{b}".encode(): bytes([int(a + b, 16)]) for a in hexdigits for b in hexdigits}
_DIGITS = np.array([int(chr(byte), 16) if chr(byte) in hexdigits else 16 for byte in range(256)], np.uint8)
_FEW = 32
"""Escapes up to which a regular expression is faster than numpy."""

_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class HttpReading:
    """Which payloads look like HTTP: those of `SHORTEST` bytes or more with one of these beginnings."""

    beginnings: tuple[bytes, ...]
    """Case-sensitive, at most 8 bytes each."""

    def matches(self, payload: bytes | memoryview) -> bool:
        """Whether one payload looks like HTTP."""
        return len(payload) >= SHORTEST and bytes(payload[:8]).startswith(self.beginnings)

    def matches_each(
        self, buffer: NDArray[np.uint8], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Apply `matches` to many payloads at once, each from ``start`` up to ``end`` in ``buffer``."""
        found = np.zeros(len(start), np.bool_)
        possible = np.flatnonzero(end - start >= SHORTEST)
        possible = possible[self._first[buffer[start[possible]]]]
        if not len(possible):
            return found
        # A payload may start at any byte: an array of all words that could begin one, which costs no copy.
        at_every_byte = np.ndarray(len(buffer) - 7, "<u8", buffer, strides=(1,))
        words = at_every_byte[start[possible]]
        hit = np.zeros(len(words), np.bool_)
        for beginning in self.beginnings:
            mask = int.from_bytes(b"\xff" * len(beginning), "little")
            hit |= (words & np.uint64(mask)) == np.uint64(int.from_bytes(beginning, "little"))
        found[possible] = hit
        return found

    @cached_property
    def _first(self) -> NDArray[np.bool_]:
        """Whether a byte may come first, by its value."""
        return np.isin(np.arange(256), [beginning[0] for beginning in self.beginnings])


LY_PROBE = HttpReading((b"GET /", b"POST /", b"HTTP/1"))
"""ly_probe's reading: two methods, origin-form targets."""

RFC9110 = HttpReading(
    (
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"CONNECT ",
        b"OPTIONS ",
        b"TRACE ",
        b"PATCH ",
        b"HTTP/1",
    )
)
"""Every method of RFC 9110, section 9.3, and PATCH (RFC 5789), with any form of target."""


def head_end(payload: bytes | memoryview) -> int:
    """Offset of the blank line that ends the head; the payload's length where there is none."""
    end = bytes(payload).find(_HEAD_END)
    return len(payload) if end < 0 else end


def url_decode(text: bytes) -> bytes:
    """Percent-decode ``text`` once; what is no valid escape stays, and ``+`` reads as a space.

    The space is right for queries and form bodies; a rule that looks for a plus finds it in
    the raw text, which it sees too.
    """
    text = text.replace(b"+", b" ")
    if text.count(b"%") <= _FEW:
        return _ESCAPE.sub(_unescape, text)
    values, starts = _escapes(text)
    return values[starts].tobytes()


def raw_offsets(text: bytes) -> NDArray[np.int64]:
    """Offset in ``text`` of each byte of ``url_decode(text)``, and of its end."""
    _, starts = _escapes(text)
    return np.flatnonzero(np.append(starts, True))


def _unescape(escape: re.Match[bytes]) -> bytes:
    return _BYTES[escape[1]]


def _escapes(text: bytes) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Decode in place, and tell the bytes to keep: all but the digits of the escapes."""
    values = np.frombuffer(text, np.uint8).copy()
    digits = _DIGITS[values]
    is_digit = digits < 16
    percent = np.flatnonzero((values[:-2] == ord("%")) & is_digit[1:-1] & is_digit[2:])
    values[percent] = digits[percent + 1] << 4 | digits[percent + 2]
    starts = np.ones(len(values), np.bool_)
    starts[percent + 1] = starts[percent + 2] = False
    return values, starts
