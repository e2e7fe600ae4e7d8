"""Decompresses gzip while it is read (RFC 1952). Runs in ``sensor read``."""

from __future__ import annotations

import zlib

from sensor.files.decompression import DecompressingStream

MAGIC = b"\x1f\x8b"
GZIP_FORMAT = zlib.MAX_WBITS | 16


class GunzipStream(DecompressingStream):
    """The decompressed bytes of a gzip file, of one or more members. Bytes after the last one are ignored."""

    format = "gzip"
    _member: zlib._Decompress | None = None

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
