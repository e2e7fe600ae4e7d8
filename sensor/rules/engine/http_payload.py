"""HTTP payloads: recognise them, find the end of the head, and percent-decode text.

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
"""Bytes; a shorter payload is not HTTP."""

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BYTES = {f"{a}{b}".encode(): bytes([int(a + b, 16)]) for a in hexdigits for b in hexdigits}
_DIGITS = np.array([int(chr(byte), 16) if chr(byte) in hexdigits else 16 for byte in range(256)], np.uint8)
_FEW = 32
"""Number of escapes up to which a regular expression is faster than numpy."""

_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class HttpReading:
    """A definition of HTTP: payloads of at least `SHORTEST` bytes with one of these beginnings."""

    beginnings: tuple[bytes, ...]
    """Case-sensitive, at most 8 bytes each."""

    def matches(self, payload: bytes | memoryview) -> bool:
        """Return True if a payload looks like HTTP."""
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
        # A payload may start at any byte. This array holds the word at every byte, without a copy.
        at_every_byte = np.ndarray(len(buffer) - 7, "<u8", buffer, strides=(1,))
        words = at_every_byte[start[possible]]
        matched = np.zeros(len(words), np.bool_)
        for beginning in self.beginnings:
            mask = int.from_bytes(b"\xff" * len(beginning), "little")
            matched |= (words & np.uint64(mask)) == np.uint64(int.from_bytes(beginning, "little"))
        found[possible] = matched
        return found

    @cached_property
    def _first(self) -> NDArray[np.bool_]:
        """True for each byte value that starts one of the beginnings, shape (256,)."""
        return np.isin(np.arange(256), [beginning[0] for beginning in self.beginnings])


LY_PROBE = HttpReading((b"GET /", b"POST /", b"HTTP/1"))
"""HTTP as ly_probe defines it: two methods, origin-form targets."""

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
"""All methods of RFC 9110, section 9.3, and PATCH (RFC 5789), with any form of target."""


def head_end(payload: bytes | memoryview) -> int:
    """Return the offset of the blank line that ends the head, or the payload's length if there is none."""
    end = bytes(payload).find(_HEAD_END)
    return len(payload) if end < 0 else end


def url_decode(text: bytes) -> bytes:
    """Percent-decode ``text`` once; invalid escapes stay as they are, and ``+`` becomes a space.

    The space is right for queries and form bodies. A rule that looks for a plus still finds it in
    the raw text, which it also sees.
    """
    text = text.replace(b"+", b" ")
    if text.count(b"%") <= _FEW:
        return _ESCAPE.sub(_unescape, text)
    values, starts = _escapes(text)
    return values[starts].tobytes()


def raw_offsets(text: bytes) -> NDArray[np.int64]:
    """Return the offset in ``text`` of each byte of ``url_decode(text)``, and of its end."""
    _, starts = _escapes(text)
    return np.flatnonzero(np.append(starts, True))


def _unescape(escape: re.Match[bytes]) -> bytes:
    return _BYTES[escape[1]]


def _escapes(text: bytes) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Decode the escapes in place; return all bytes, and True for those to keep (not an escape's digits)."""
    values = np.frombuffer(text, np.uint8).copy()
    digits = _DIGITS[values]
    is_digit = digits < 16
    percent = np.flatnonzero((values[:-2] == ord("%")) & is_digit[1:-1] & is_digit[2:])
    values[percent] = digits[percent + 1] << 4 | digits[percent + 2]
    starts = np.ones(len(values), np.bool_)
    starts[percent + 1] = starts[percent + 2] = False
    return values, starts
