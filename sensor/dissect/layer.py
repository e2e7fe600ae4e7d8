"""A place in a frame, and the fields that were read up to there; runs wherever `dissect` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from sensor.text import printable

TEXT_MAX = 4096
"""Longest value shown, in characters; the bytes themselves are in the frame."""


class HeaderField(NamedTuple):
    """A value and where it stands: offsets in the frame. Several fields may share bytes (flags do)."""

    name: str
    value: str
    start: int
    end: int


class HeaderLayer(NamedTuple):
    """A header, or the data that no header is known for: offsets in the frame."""

    name: str
    start: int
    end: int
    fields: list[HeaderField]


class CutShortError(Exception):
    """The frame ends, or its own lengths say that it ends, before the field does."""


class Next(NamedTuple):
    """Names what follows a layer; modules need not know each other, which tunnels would make circular."""

    table: Literal["link", "ethertype", "protocol", "tcp", "udp"]
    key: int = 0


Step = Callable[["FrameReader"], Next | None]
"""Reads one layer from a cursor; names the next one, or gives None where only data follows."""


class FrameReader:
    """Moves through a frame; each read becomes a field of the layer that was begun last."""

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.position = 0
        self.end = len(frame)
        """Where the packet ends by its own lengths; what is behind that is padding."""
        self.layers: list[HeaderLayer] = []
        self.ports = (0, 0)
        """Source and destination port of the last TCP or UDP header."""

    @property
    def left(self) -> int:
        """Bytes up to the packet's end."""
        return self.end - self.position

    def begin(self, name: str) -> int:
        """Begin a layer here, which ends the one before; return where it starts."""
        self._end_layer()
        self.layers.append(HeaderLayer(name, self.position, self.end, []))
        return self.position

    def close(self, name: str) -> None:
        """End the last layer here; what is left becomes a layer of that name, and padding one of its own."""
        if self.left:
            self.begin(name)
            self.position = self.end
        self._end_layer()
        if self.end < len(self.frame):
            self.layers.append(HeaderLayer("Padding", self.end, len(self.frame), []))

    def _end_layer(self) -> None:
        if self.layers:
            self.layers[-1] = self.layers[-1]._replace(end=self.position)

    def narrow(self, end: int) -> None:
        """End the packet there, where that is not behind its end anyway."""
        self.end = max(self.position, min(self.end, end))

    def note(self, name: str, value: object, start: int, end: int) -> None:
        """Add a field that stands in bytes already read."""
        self.layers[-1].fields.append(HeaderField(name, str(value)[:TEXT_MAX], start, end))

    def take(self, size: int) -> bytes:
        """Move on by so many bytes and return them.

        Raises:
            CutShortError: There are fewer; the cursor is then at the end of what is there.
        """
        start = self.position
        if not 0 <= size <= self.left:
            self.position = self.end
            raise CutShortError
        self.position += size
        return self.frame[start : self.position]

    def number(self, name: str, size: int, show: Callable[[int], object] | Mapping[int, str] = str) -> int:
        """Read a big-endian number; shown by a function, or with its name in a table behind it."""
        start = self.position
        value = int.from_bytes(self.take(size))
        shown = show(value) if callable(show) else named(value, show)
        self.note(name, shown, start, self.position)
        return value

    def octets(self, name: str, size: int, show: Callable[[bytes], str] = bytes.hex) -> bytes:
        """Read so many bytes; a field only where there are any."""
        start = self.position
        value = self.take(size)
        if value:
            self.note(name, show(value), start, self.position)
        return value

    def text(self, name: str, size: int) -> bytes:
        """Read bytes that are shown as text."""
        return self.octets(name, size, printable)


def named(value: int, names: Mapping[int, str]) -> str:
    """Return the number and, where it has one, its name: ``6 (TCP)``."""
    return f"{value} ({names[value]})" if value in names else str(value)


def flags(value: int, names: Mapping[int, str]) -> str:
    """Return the number in hexadecimal, and the names of the bits that are set: ``0x12 (SYN, ACK)``."""
    set_bits = ", ".join(name for bit, name in names.items() if value & bit)
    return f"{value:#04x} ({set_bits})" if set_bits else f"{value:#04x}"


def hexadecimal(value: int) -> str:
    """Return a number as 0x and four digits, as checksums and identifiers are written."""
    return f"{value:#06x}"
