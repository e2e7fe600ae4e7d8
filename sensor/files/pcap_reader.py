"""Reads classic pcap: a file header, then a record header and a frame for each packet.

Runs in ``sensor read``. Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

import numpy as np

from sensor.errors import CaptureFileError
from sensor.files.byte_source import FRAME_SIZE_MAX, ByteSource
from sensor.model import FrameBatch
from sensor.native.pcap_records import RecordLayout

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
NATIVE_ORDER = "<" if sys.byteorder == "little" else ">"
VERSION_MAJOR, VERSION_MINOR_MAX = 2, 4
LINKTYPE_MASK = 0xFFFF  # the higher bits give the length of the frame check sequence


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
    swapped = order != NATIVE_ORDER
    layout = RecordLayout(swapped, record_header_bytes, minor, fraction_ns)
    rest, offset = memoryview(b""), FILE_HEADER_BYTES
    while not source.at_end:
        buffer = source.read_after(rest)
        end, count = 0, max_frames
        while count == max_frames:
            (start, caplen, wirelen, time_ns), end = layout.walk(buffer, end, max_frames)
            count = len(start)
            if count:
                interface = np.zeros(count, np.int64)
                yield FrameBatch(buffer, start, caplen, wirelen, time_ns, interface, linktype & LINKTYPE_MASK)
        rest, offset = buffer[end:], offset + end
        if len(rest) > record_header_bytes + FRAME_SIZE_MAX:
            break  # the rest is not a record
    if len(rest) >= record_header_bytes:
        length = layout.caplen(rest)
        if length > FRAME_SIZE_MAX:
            raise source.damage(f"the record at byte {offset} claims {length} bytes, too many for a frame")
    if rest:
        raise source.damage(f"ends inside the record at byte {offset}")
