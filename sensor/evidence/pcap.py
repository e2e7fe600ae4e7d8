"""The pcap format of evidence files: headers, and a strict reader. Runs where evidence is written or read.

Evidence files are classic pcap: little endian, microseconds, version 2.4
(https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-06.html). The reader rejects every other variant;
`sensor.files` reads the capture files of other programs, and `sensor.native.records` makes the records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sensor.errors import EvidenceError
from sensor.process.regular_file import open_to_read

SNAPLEN = 262_144
"""Maximum bytes kept of a frame, which is the maximum that libpcap accepts.

It is written into every file header, because libpcap cuts longer records to the snaplen of their file.
Frames on a loopback interface are longer than the former limit of 65535.
"""

_FILE_HEADER = struct.Struct("<IHHiIII")  # magic, version, version, zone, sigfigs, snaplen, linktype
_RECORD_HEADER = struct.Struct("<IIII")  # seconds, microseconds, caplen, wirelen
FILE_HEADER_BYTES = _FILE_HEADER.size
RECORD_HEADER_BYTES = _RECORD_HEADER.size
_ZERO_HEADER = bytes(_RECORD_HEADER.size)
_ZERO_CHUNK_BYTES = 1 << 20


def file_header(linktype: int) -> bytes:
    """Return the 24-byte header of an evidence file with this link type."""
    return _FILE_HEADER.pack(0xA1B2C3D4, 2, 4, 0, 0, SNAPLEN, linktype)


def record_header(time_us: int, caplen: int, wirelen: int) -> bytes:
    """Return the 16-byte header of a record."""
    return _RECORD_HEADER.pack(*divmod(time_us, 1_000_000), caplen, wirelen)


_COMMON_HEADER = file_header(0)[:-4]  # without the link type


class Record(NamedTuple):
    """One record of an evidence file."""

    offset: int
    """Offset of the 16-byte record header in the file."""
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
    """Iterates over the whole records of an evidence file.

    A file may end inside a record or inside its header (its writer was killed, or is writing right now),
    or in zeros (after a power cut). Iteration stops there, and ``end`` is the offset of the byte after the
    last whole record.

    Raises:
        EvidenceError: the file has another header (raised by the constructor), or something other than a
            record before its end (raised by the iteration).
    """

    def __init__(self, file: BinaryIO) -> None:
        header = file.read(_FILE_HEADER.size)
        common = header[: len(_COMMON_HEADER)]
        if common != _COMMON_HEADER[: len(header)]:
            raise EvidenceError(f"{file.name} is not an evidence file; move it out of the evidence directory")
        self._file = file
        whole = len(header) == _FILE_HEADER.size
        self.linktype = int.from_bytes(header[len(common) :], "little") if whole else None
        """None if the file ends inside its header."""
        self.end = len(header) if whole else 0

    def seek(self, offset: int) -> None:
        """Continue with the record at this offset."""
        self._file.seek(offset)
        self.end = offset

    def __iter__(self) -> Iterator[Record]:
        while self.end and len(header := self._file.read(_RECORD_HEADER.size)) == _RECORD_HEADER.size:
            seconds, microseconds, caplen, wirelen = _RECORD_HEADER.unpack(header)
            if header == _ZERO_HEADER and self._only_zeros_left():
                return
            if header == _ZERO_HEADER or microseconds >= 1_000_000 or caplen > SNAPLEN:
                raise EvidenceError(f"{self._file.name} is damaged: there is no record at byte {self.end}")
            frame = self._file.read(caplen)
            if len(frame) < caplen:
                return
            record = Record(self.end, seconds * 1_000_000 + microseconds, caplen, wirelen, frame)
            self.end = record.end
            yield record

    def _only_zeros_left(self) -> bool:
        while (chunk := self._file.read(_ZERO_CHUNK_BYTES)) and chunk.count(0) == len(chunk):
            pass
        return not chunk


def read_record(file: BinaryIO, offset: int, caplen: int) -> Record | None:
    """Read the record at an offset; return None if there is no record with this caplen."""
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
    """Return the link type of an evidence file, and the time of its first record in microseconds.

    Raises:
        EvidenceError: the file cannot be read, or has no record.
    """
    try:
        with open_to_read(path) as file:
            reader = RecordReader(file)
            for record in reader:
                return reader.linktype or 0, record.time_us
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read: {error.strerror}") from error
    raise EvidenceError(f"{path} has no packets")
