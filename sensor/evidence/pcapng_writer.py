"""The pcapng format of exported evidence: every packet with its interface and a comment.

Runs in the API process and in ``sensor evidence export``. Blocks and options follow
https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html; little endian, one section.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from importlib.metadata import version

from sensor import DISTRIBUTION
from sensor.evidence.pcap import SNAPLEN

_SECTION_HEADER, _INTERFACE_DESCRIPTION, _INTERFACE_STATISTICS, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_END_OF_OPTIONS, _COMMENT = 0, 1
_SHB_USER_APPLICATION, _IF_NAME = 4, 2
_ISB_START_TIME, _ISB_END_TIME, _ISB_IF_DROP = 2, 3, 5
_OPTION_BYTES = 65_535
_APPLICATION = f"sensor {version(DISTRIBUTION)}"  # read at import; the API process may not be able to later


def section_header() -> bytes:
    """Return the first block of a file."""
    body = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
    return _block(_SECTION_HEADER, body + _options({_SHB_USER_APPLICATION: _APPLICATION}))


def interface_description(linktype: int, name: str) -> bytes:
    """Return the block of an interface, whose times are in microseconds. The name may be empty."""
    body = struct.pack("<HHI", linktype, 0, SNAPLEN)
    return _block(_INTERFACE_DESCRIPTION, body + _options({_IF_NAME: name}))


def enhanced_packet(interface: int, time_us: int, wirelen: int, frame: bytes, comment: str) -> bytes:
    """Return the block of a packet; interfaces are numbered from 0 in the order of their blocks."""
    body = struct.pack("<IIIII", interface, *_time(time_us), len(frame), wirelen)
    return _block(_ENHANCED_PACKET, body + _padded(frame) + _options({_COMMENT: comment}))


def interface_statistics(interface: int, first_us: int, last_us: int, dropped: int) -> bytes:
    """Return the block that says how many frames an interface lost in a stretch of time."""
    body = struct.pack("<III", interface, *_time(last_us))
    options: dict[int, str | bytes] = {
        _ISB_START_TIME: struct.pack("<II", *_time(first_us)),
        _ISB_END_TIME: struct.pack("<II", *_time(last_us)),
        _ISB_IF_DROP: struct.pack("<Q", dropped),
    }
    return _block(_INTERFACE_STATISTICS, body + _options(options))


def _time(time_us: int) -> tuple[int, int]:
    """Return the upper and the lower half of a time."""
    return divmod(time_us, 1 << 32)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


def _options(options: Mapping[int, str | bytes]) -> bytes:
    """Encode the options that have a value; text that is too long is cut."""
    chunks = []
    for code, given in options.items():
        value = given
        if isinstance(value, str):
            value = value.encode()[:_OPTION_BYTES].decode(errors="ignore").encode()
        if value:
            chunks.append(struct.pack("<HH", code, len(value)) + _padded(value))
    return b"".join([*chunks, struct.pack("<HH", _END_OF_OPTIONS, 0)]) if chunks else b""


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)
