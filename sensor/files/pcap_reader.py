"""Reads classic pcap: a file header, then a record header and a frame for each packet.

Runs in ``sensor read``. Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sensor.errors import CaptureFileError
from sensor.files.byte_source import FRAME_SIZE_MAX, ByteSource
from sensor.model import FrameBatch

BYTE_ORDERS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000, 16),
    b"\xa1\xb2\xc3\xd4": (">", 1000, 16),
    b"\x4d\x3c\xb2\xa1": ("<", 1, 16),
    b"\xa1\xb2\x3c\x4d": (">", 1, 16),
    b"\x34\xcd\xb2\xa1": ("<", 1000, 24),
    b"\xa1\xb2\xcd\x34": (">", 1000, 24),
}
"""Byte order, unit of the fractional seconds in nanoseconds, and size of the record header, for each magic
number as in the file. The last two are Alexey Kuznetzov's modified format with longer record headers."""

FILE_HEADER_BYTES = 24
VERSION_MAJOR, VERSION_MINOR_MAX = 2, 4
LINKTYPE_MASK = 0xFFFF  # the higher bits give the length of the frame check sequence
CHUNK_BYTES = 1 << 20


def read_pcap(source: ByteSource, max_frames: int) -> Iterator[FrameBatch]:
    """Yield the frames of a pcap file whose magic number is in `BYTE_ORDERS`.

    Raises:
        CaptureFileError: the file is damaged or cut short. The frames before that are yielded first.
    """
    header = source.read(FILE_HEADER_BYTES)
    if len(header) < FILE_HEADER_BYTES:
        raise source.damage("ends inside its file header")
    order, fraction_ns, record_header_bytes = BYTE_ORDERS[header[:4]]
    major, minor, linktype = struct.unpack(f"{order}4xHH12xI", header)
    if major != VERSION_MAJOR or minor > VERSION_MINOR_MAX:
        raise CaptureFileError(
            f"{source.path}: pcap version {major}.{minor} is not supported; "
            f"convert the file: editcap -F pcap {source.path} OUT"
        )
    records = _Records(order, fraction_ns, record_header_bytes, minor, linktype & LINKTYPE_MASK)
    rest, offset = memoryview(b""), FILE_HEADER_BYTES
    while not source.at_end:
        buffer = source.read_after(rest, CHUNK_BYTES)
        positions, end = records.find(buffer)
        for first in range(0, len(positions), max_frames):
            yield records.batch(buffer, positions[first : first + max_frames])
        rest, offset = buffer[end:], offset + end
        if len(rest) > record_header_bytes + FRAME_SIZE_MAX:
            break  # the rest is not a record
    if len(rest) >= record_header_bytes:
        caplen = records.caplen_at(rest, 0)
        if caplen > FRAME_SIZE_MAX:
            raise source.damage(f"the record at byte {offset} claims {caplen} bytes, too many for a frame")
    if rest:
        raise source.damage(f"ends inside the record at byte {offset}")


@dataclass(frozen=True)
class _Records:
    """The layout of the records of one file."""

    order: str
    fraction_ns: int
    header_bytes: int
    minor: int
    """The minor version. Before 2.3 the two lengths are swapped; in 2.3 they may be, as in libpcap."""
    linktype: int

    def caplen_at(self, buffer: memoryview, position: int) -> int:
        """Return the captured length of the record at this position."""
        lengths = struct.unpack_from(f"{self.order}8xII", buffer, position)
        return int(self._caplen(*lengths))

    def find(self, buffer: memoryview) -> tuple[list[int], int]:
        """Return the position of each whole record, and the end of the last one."""
        header_bytes = self.header_bytes
        caplen_at = struct.Struct(f"{self.order}8xI").unpack_from
        positions = []
        position, size = 0, len(buffer)
        while position + header_bytes <= size:
            caplen = caplen_at(buffer, position)[0] if self.minor == 4 else self.caplen_at(buffer, position)
            following = position + header_bytes + caplen
            if following > size or caplen > FRAME_SIZE_MAX:
                break
            positions.append(position)
            position = following
        return positions, position

    def batch(self, buffer: memoryview, positions: list[int]) -> FrameBatch:
        """Return the frames of the records at these positions."""
        position = np.array(positions, np.int64)
        fields = ("seconds", "fraction", "caplen", "wirelen")
        record = np.dtype([(field, f"{self.order}u4") for field in fields])
        # A record can start at any byte, so this view has a record header at every byte, without a copy.
        at_every_byte = np.ndarray(len(buffer) - record.itemsize + 1, record, buffer, strides=(1,))
        headers = at_every_byte[position]
        seconds, fraction, first, second = (headers[field].astype(np.int64) for field in fields)
        return FrameBatch(
            buffer=buffer,
            start=position + self.header_bytes,
            caplen=self._caplen(first, second),
            wirelen=np.maximum(first, second),
            timestamp_ns=seconds * 1_000_000_000 + fraction * self.fraction_ns,
            interface=np.zeros(len(position), np.int64),
            linktype=self.linktype,
        )

    def _caplen(self, first: Any, second: Any) -> Any:
        """Return the captured length, or lengths, of the two in the record header."""
        if self.minor < 3:
            return second
        return np.minimum(first, second) if self.minor == 3 else first
