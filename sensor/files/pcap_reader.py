"""Classic pcap: a file header, then frames with a record header each; runs in ``sensor read``.

Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from sensor.errors import CaptureFileError
from sensor.files.byte_source import FRAME_SIZE_MAX, ByteSource
from sensor.model import FrameBatch

BYTE_ORDERS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
"""Magic number as it stands in the file: byte order, and the nanoseconds a fraction of a second counts in."""

FILE_HEADER_SIZE = 24
VERSION = (2, 4)
LINKTYPE_MASK = 0xFFFF  # the bits above say how long a frame check sequence the frames end in
RECORD_HEADER_SIZE = 16
CHUNK_BYTES = 1 << 20


def read_records(source: ByteSource, max_frames: int) -> Iterator[FrameBatch]:
    """Read the frames of a pcap file whose magic number is in `BYTE_ORDERS`.

    Raises:
        CaptureFileError: The file is damaged or cut short; whole frames before that come first.
    """
    header = source.read(FILE_HEADER_SIZE)
    if len(header) < FILE_HEADER_SIZE:
        raise source.fault("ends inside its file header")
    order, fraction_ns = BYTE_ORDERS[header[:4]]
    major, minor, linktype = struct.unpack(f"{order}4xHH12xI", header)
    if (major, minor) != VERSION:
        raise CaptureFileError(
            f"{source.path}: pcap version {major}.{minor}; make it 2.4: editcap -F pcap {source.path} OUT"
        )
    rest, offset = memoryview(b""), FILE_HEADER_SIZE
    while not source.ended:
        buffer = source.read_behind(rest, CHUNK_BYTES)
        positions, end = _walk(buffer, order)
        for first in range(0, len(positions), max_frames):
            some = positions[first : first + max_frames]
            yield _batch(buffer, some, order, fraction_ns, linktype & LINKTYPE_MASK)
        rest, offset = buffer[end:], offset + end
        if len(rest) > RECORD_HEADER_SIZE + FRAME_SIZE_MAX:
            break  # what is left is no record
    if len(rest) >= RECORD_HEADER_SIZE:
        (caplen,) = struct.unpack_from(f"{order}8xI", rest)
        if caplen > FRAME_SIZE_MAX:
            raise source.fault(f"the record at byte {offset} claims {caplen} bytes, more than any frame has")
    if rest:
        raise source.fault(f"ends inside the record at byte {offset}")


def _walk(buffer: memoryview, order: str) -> tuple[list[int], int]:
    """Find where each whole record starts, and where the last one ends."""
    caplen_at = struct.Struct(f"{order}8xI").unpack_from
    positions = []
    position, size = 0, len(buffer)
    while position + RECORD_HEADER_SIZE <= size:
        (caplen,) = caplen_at(buffer, position)
        following = position + RECORD_HEADER_SIZE + caplen
        if following > size or caplen > FRAME_SIZE_MAX:
            break
        positions.append(position)
        position = following
    return positions, position


def _batch(
    buffer: memoryview, positions: list[int], order: str, fraction_ns: int, linktype: int
) -> FrameBatch:
    position = np.array(positions, np.int64)
    fields = ("seconds", "fraction", "caplen", "wirelen")
    record = np.dtype([(field, f"{order}u4") for field in fields])
    # A record may start at any byte: an array of all that could, which costs no copy.
    at_every_byte = np.ndarray(len(buffer) - RECORD_HEADER_SIZE + 1, record, buffer, strides=(1,))
    headers = at_every_byte[position]
    seconds, fraction, caplen, wirelen = (headers[field].astype(np.int64) for field in fields)
    return FrameBatch(
        buffer=buffer,
        start=position + RECORD_HEADER_SIZE,
        caplen=caplen,
        wirelen=np.maximum(caplen, wirelen),
        timestamp_ns=seconds * 1_000_000_000 + fraction * fraction_ns,
        interface=np.zeros(len(position), np.int64),
        linktype=linktype,
    )
