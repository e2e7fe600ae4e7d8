"""Reads classic pcap: a file header, then a record header and a frame for each packet.

Runs in ``sensor read``. Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html.
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
"""Byte order, and unit of the fractional seconds in nanoseconds, for each magic number as in the file."""

FILE_HEADER_BYTES = 24
VERSION = (2, 4)
LINKTYPE_MASK = 0xFFFF  # the higher bits give the length of the frame check sequence
RECORD_HEADER_BYTES = 16
CHUNK_BYTES = 1 << 20


def read_pcap(source: ByteSource, max_frames: int) -> Iterator[FrameBatch]:
    """Yield the frames of a pcap file whose magic number is in `BYTE_ORDERS`.

    Raises:
        CaptureFileError: the file is damaged or cut short. The frames before that are yielded first.
    """
    header = source.read(FILE_HEADER_BYTES)
    if len(header) < FILE_HEADER_BYTES:
        raise source.damage("ends inside its file header")
    order, fraction_ns = BYTE_ORDERS[header[:4]]
    major, minor, linktype = struct.unpack(f"{order}4xHH12xI", header)
    if (major, minor) != VERSION:
        raise CaptureFileError(
            f"{source.path}: pcap version {major}.{minor} is not supported; "
            f"convert the file: editcap -F pcap {source.path} OUT"
        )
    rest, offset = memoryview(b""), FILE_HEADER_BYTES
    while not source.at_end:
        buffer = source.read_after(rest, CHUNK_BYTES)
        positions, end = _whole_records(buffer, order)
        for first in range(0, len(positions), max_frames):
            some = positions[first : first + max_frames]
            yield _batch(buffer, some, order, fraction_ns, linktype & LINKTYPE_MASK)
        rest, offset = buffer[end:], offset + end
        if len(rest) > RECORD_HEADER_BYTES + FRAME_SIZE_MAX:
            break  # the rest is not a record
    if len(rest) >= RECORD_HEADER_BYTES:
        (caplen,) = struct.unpack_from(f"{order}8xI", rest)
        if caplen > FRAME_SIZE_MAX:
            raise source.damage(f"the record at byte {offset} claims {caplen} bytes, too many for a frame")
    if rest:
        raise source.damage(f"ends inside the record at byte {offset}")


def _whole_records(buffer: memoryview, order: str) -> tuple[list[int], int]:
    """Return the position of each whole record, and the end of the last one."""
    caplen_at = struct.Struct(f"{order}8xI").unpack_from
    positions = []
    position, size = 0, len(buffer)
    while position + RECORD_HEADER_BYTES <= size:
        (caplen,) = caplen_at(buffer, position)
        following = position + RECORD_HEADER_BYTES + caplen
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
    # A record can start at any byte, so this view has a record header at every byte, without a copy.
    at_every_byte = np.ndarray(len(buffer) - RECORD_HEADER_BYTES + 1, record, buffer, strides=(1,))
    headers = at_every_byte[position]
    seconds, fraction, caplen, wirelen = (headers[field].astype(np.int64) for field in fields)
    return FrameBatch(
        buffer=buffer,
        start=position + RECORD_HEADER_BYTES,
        caplen=caplen,
        wirelen=np.maximum(caplen, wirelen),
        timestamp_ns=seconds * 1_000_000_000 + fraction * fraction_ns,
        interface=np.zeros(len(position), np.int64),
        linktype=linktype,
    )
