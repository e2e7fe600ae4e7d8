"""Reads the headers of one frame, field by field. Runs where `dissect` runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from sensor.dissect.layer import HeaderField, HeaderLayer
from sensor.text import printable

TEXT_MAX = 4096
"""Longest value of a field, characters; longer values are cut."""


class CutShortError(Exception):
    """The frame or its packet ends before the field does."""


class Next(NamedTuple):
    """The next layer, by table and key, so that the modules of layers need not import each other."""

    table: Literal["link", "ethertype", "protocol", "tcp", "udp"]
    key: int = 0


Show = Callable[[int], object]
"""Returns what to show for a number."""
Step = Callable[["FrameReader"], Next | None]
"""Reads one layer; returns the next one, or None if only data follows."""


class FrameReader:
    """A position in a frame; each value read becomes a field of the current layer."""

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.position = 0
        self.end = len(frame)
        """End of the packet by its own lengths; the bytes after it are padding."""
        self.layers: list[HeaderLayer] = []
        self.ports = (0, 0)
        """Source and destination port of the last TCP or UDP header."""

    @property
    def left(self) -> int:
        """Number of bytes up to the end of the packet."""
        return self.end - self.position

    def begin_layer(self, name: str) -> int:
        """End the current layer, begin a new one here and return its offset."""
        self._end_layer()
        self.layers.append(HeaderLayer(name, self.position, self.end, []))
        return self.position

    def close(self, name: str) -> None:
        """End the current layer; add the rest of the packet as layer ``name``, and padding as another."""
        if self.left:
            self.begin_layer(name)
            self.position = self.end
        self._end_layer()
        if self.end < len(self.frame):
            self.layers.append(HeaderLayer("Padding", self.end, len(self.frame), []))

    def _end_layer(self) -> None:
        if self.layers:
            self.layers[-1] = self.layers[-1]._replace(end=self.position)

    def narrow(self, end: int) -> None:
        """Shorten the packet to ``end``, but not to before the current position; never lengthen it."""
        self.end = max(self.position, min(self.end, end))

    def add_field(self, name: str, value: object, start: int, end: int) -> None:
        """Add a field for bytes that are already read."""
        self.layers[-1].fields.append(HeaderField(name, str(value)[:TEXT_MAX], start, end))

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes and move behind them.

        Raises:
            CutShortError: fewer bytes are left; the position is then the end of the packet.
        """
        start = self.position
        if not 0 <= size <= self.left:
            self.position = self.end
            raise CutShortError
        self.position += size
        return self.frame[start : self.position]

    def read_number(
        self, name: str, size: int, show: Callable[[int], object] | Mapping[int, str] = str
    ) -> int:
        """Read a big-endian number as a field, shown by a function or with its name from a table."""
        start = self.position
        value = int.from_bytes(self.read(size))
        shown = show(value) if callable(show) else named(value, show)
        self.add_field(name, shown, start, self.position)
        return value

    def read_bytes(self, name: str, size: int, show: Callable[[bytes], str] = bytes.hex) -> bytes:
        """Read ``size`` bytes as a field; no field if ``size`` is 0."""
        start = self.position
        value = self.read(size)
        if value:
            self.add_field(name, show(value), start, self.position)
        return value

    def read_text(self, name: str, size: int) -> bytes:
        """Read ``size`` bytes as a field shown as text."""
        return self.read_bytes(name, size, printable)


def named(value: int, names: Mapping[int, str]) -> str:
    """Return the number and, if it has one, its name: ``6 (TCP)``."""
    return f"{value} ({names[value]})" if value in names else str(value)


def flags(value: int, names: Mapping[int, str]) -> str:
    """Return the number in hexadecimal with the names of the bits set: ``0x12 (SYN, ACK)``."""
    set_bits = ", ".join(name for bit, name in names.items() if value & bit)
    return f"{value:#04x} ({set_bits})" if set_bits else f"{value:#04x}"


def hexadecimal(value: int) -> str:
    """Return a number as ``0x`` and four digits."""
    return f"{value:#06x}"
