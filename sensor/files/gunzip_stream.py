"""Decompresses gzip while it is read (RFC 1952). Runs in ``sensor read``."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAGIC = b"\x1f\x8b"
GZIP_FORMAT = zlib.MAX_WBITS | 16
INPUT_BYTES = 1 << 14
OUTPUT_BYTES = 1 << 16


class GunzipStream(io.RawIOBase):
    """The decompressed bytes of a gzip file, of one or more members.

    Memory is bounded by a few buffers, whatever the ratio. Damage ends the stream after the last bytes that
    can be decompressed, and is described in ``fault``. Bytes after the last member are ignored.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self.fault = ""
        self.input_bytes = 0
        """The number of compressed bytes read."""
        self._file = file
        self._input = b""
        self._member: zlib._Decompress | None = None
        self._at_end = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer with the next bytes; return their number, which is smaller at the end only."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and not self._at_end:
            data = self._next(min(len(view) - filled, OUTPUT_BYTES))
            view[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def _next(self, size: int) -> bytes:
        """Return up to ``size`` bytes; none at the end, or between two members."""
        if self._member is None:
            self._start_member()
            return b""
        is_last_input = not self._input and not self._read_input()
        before = self._member.copy()
        try:
            data = self._member.decompress(self._input, size)
        except zlib.error:
            self._end("damaged")
            return _bytes_before_damage(before, self._input, size)
        self._input = self._member.unconsumed_tail
        if self._member.eof:
            self._input, self._member = self._member.unused_data, None
        elif is_last_input and not data:
            self._end("cut short")
        return data

    def _start_member(self) -> None:
        """Begin the next member, or end the stream if there is none."""
        while len(self._input) < len(MAGIC) and self._read_input():
            pass
        if self._input.startswith(MAGIC):
            self._member = zlib.decompressobj(GZIP_FORMAT)
        else:
            self._end("")

    def _read_input(self) -> bool:
        data = self._file.read(INPUT_BYTES)
        self._input += data
        self.input_bytes += len(data)
        return bool(data)

    def _end(self, fault: str) -> None:
        self._at_end = True
        self.fault = fault


def _bytes_before_damage(member: zlib._Decompress, data: bytes, size: int) -> bytes:
    """Return what can be decompressed. A failed call returns nothing, so the data is fed byte by byte."""
    good = bytearray()
    try:
        for byte in data:
            if len(good) == size:
                break
            good += member.decompress(member.unconsumed_tail + bytes((byte,)), size - len(good))
    except zlib.error:
        pass
    return bytes(good)
