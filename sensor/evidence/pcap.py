"""The classic libpcap format as evidence files use it: encoding, and a checked reader of our own files.

Runs in the process that writes evidence and in those that look it up. Little endian, microseconds,
version 2.4 (https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-06.html). Capture files of other
programs are read elsewhere; here they are only recognised as foreign.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sensor.errors import EvidenceError
from sensor.model import Evidence

SNAPLEN = 262_144
"""Most bytes kept of a frame: the most that libpcap accepts. Written into every file, since libpcap cuts
longer records to their file's snaplen, and a frame of a loopback exceeds the 65535 of old."""

_FILE_HEADER = struct.Struct("<IHHiIII")  # magic, version, version, zone, sigfigs, snaplen, linktype
_RECORD_HEADER = struct.Struct("<IIII")  # seconds, microseconds, caplen, wirelen
FILE_HEADER_BYTES = _FILE_HEADER.size
RECORD_HEADER_BYTES = _RECORD_HEADER.size
_ZERO_HEADER = bytes(_RECORD_HEADER.size)
_ZERO_CHUNK_BYTES = 1 << 20


def file_header(linktype: int) -> bytes:
    """Return the 24 bytes an evidence file of this link type starts with."""
    return _FILE_HEADER.pack(0xA1B2C3D4, 2, 4, 0, 0, SNAPLEN, linktype)


def record_header(time_us: int, caplen: int, wirelen: int) -> bytes:
    """Return the 16 bytes in front of a frame."""
    return _RECORD_HEADER.pack(*divmod(time_us, 1_000_000), caplen, wirelen)


_COMMON_HEADER = file_header(0)[:-4]  # all of it but the link type


def encode(items: Sequence[Evidence]) -> tuple[bytes, list[int]]:
    """Return the records of these pieces, joined, and for each the offset at which it ends.

    Nanoseconds are cut to microseconds and frames to `SNAPLEN`; ``wirelen`` is kept as it is.
    Times have to be from 1970 to 2106, which is what a record can hold.
    """
    pack = _RECORD_HEADER.pack
    chunks: list[bytes] = []
    ends: list[int] = []
    end = 0
    for item in items:
        frame = item.frame[:SNAPLEN]
        caplen = len(frame)
        seconds, nanoseconds = divmod(item.timestamp_ns, 1_000_000_000)
        chunks.append(pack(seconds, nanoseconds // 1000, caplen, item.wirelen))
        chunks.append(frame)
        end += _RECORD_HEADER.size + caplen
        ends.append(end)
    return b"".join(chunks), ends


class Record(NamedTuple):
    """One record of an evidence file."""

    offset: int
    """Where the record's 16-byte header starts in its file."""
    time_us: int
    """Microseconds since the epoch, UTC."""
    caplen: int
    wirelen: int
    frame: bytes

    @property
    def end(self) -> int:
        """Offset of the byte after the record."""
        return self.offset + RECORD_HEADER_BYTES + self.caplen


class RecordReader:
    """Reads an evidence file from its start, whole records only.

    A file may end inside a record or inside its header (its writer was killed, or writes at this
    moment), or in zeros (power was cut): iteration stops there, and ``end`` is the offset behind the
    last whole record. Anything else that is no record raises `EvidenceError`, a foreign header already
    on construction.
    """

    def __init__(self, file: BinaryIO) -> None:
        header = file.read(_FILE_HEADER.size)
        common = header[: len(_COMMON_HEADER)]
        if common != _COMMON_HEADER[: len(header)]:
            raise EvidenceError(f"{file.name} is not an evidence file; move it out of the evidence directory")
        self._file = file
        whole = len(header) == _FILE_HEADER.size
        self.linktype = int.from_bytes(header[len(common) :], "little") if whole else None
        """None where the file ends inside its header."""
        self.end = len(header) if whole else 0

    def seek(self, offset: int) -> None:
        """Go on with the record at this offset."""
        self._file.seek(offset)
        self.end = offset

    def __iter__(self) -> Iterator[Record]:
        while self.end and len(header := self._file.read(_RECORD_HEADER.size)) == _RECORD_HEADER.size:
            seconds, microseconds, caplen, wirelen = _RECORD_HEADER.unpack(header)
            if header == _ZERO_HEADER and self._only_zeros_left():
                return
            if header == _ZERO_HEADER or microseconds >= 1_000_000 or caplen > SNAPLEN:
                raise EvidenceError(f"{self._file.name} is damaged: no record at byte {self.end}")
            frame = self._file.read(caplen)
            if len(frame) < caplen:
                return
            record = Record(self.end, seconds * 1_000_000 + microseconds, caplen, wirelen, frame)
            self.end += len(header) + caplen
            yield record

    def _only_zeros_left(self) -> bool:
        while (chunk := self._file.read(_ZERO_CHUNK_BYTES)) and chunk.count(0) == len(chunk):
            pass
        return not chunk


def read_record(file: BinaryIO, offset: int, caplen: int) -> Record | None:
    """Read the record at an offset; None where there is none of this caplen."""
    file.seek(offset)
    data = file.read(RECORD_HEADER_BYTES + caplen)
    if len(data) < RECORD_HEADER_BYTES + caplen:
        return None
    seconds, microseconds, found_caplen, wirelen = _RECORD_HEADER.unpack_from(data)
    if found_caplen != caplen:
        return None
    time_us = seconds * 1_000_000 + microseconds
    return Record(offset, time_us, caplen, wirelen, data[RECORD_HEADER_BYTES:])


def first_record(path: Path) -> tuple[int, int]:
    """Return the link type of an evidence file, and the microsecond of its first record.

    Raises `EvidenceError` where it cannot be read, or has no record.
    """
    try:
        with path.open("rb") as file:
            reader = RecordReader(file)
            for record in reader:
                return reader.linktype or 0, record.time_us
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read: {error.strerror}") from error
    raise EvidenceError(f"{path} has no packets")
