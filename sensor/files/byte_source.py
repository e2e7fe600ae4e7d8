"""The bytes of a capture file, and the errors of reading them. Runs in ``sensor read``."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Protocol

from sensor.errors import CaptureFileError
from sensor.files import gunzip_stream, zstd_stream
from sensor.files.decompression import DecompressingStream
from sensor.files.gunzip_stream import GunzipStream
from sensor.files.zstd_stream import ZstdStream

STANDARD_INPUT = Path("-")
FRAME_SIZE_MAX = 262_144
"""The longest frame that libpcap writes or reads (MAXIMUM_SNAPLEN); a longer frame means damage."""
SKIP_BYTES = 1 << 20
CHUNK_BYTES = 1 << 22
"""Bytes read at once: some 5,000 frames, so that the work per batch hardly counts, and caches hold most."""
PIPE_CHUNK_BYTES = 1 << 20
"""The same from a pipe, whose writer may be slow."""
SPARE_BYTES = 2 * FRAME_SIZE_MAX
"""Room in a buffer for what is usually left of the one before."""


BytesLike = bytes | memoryview


class Digest(Protocol):
    """Computed from the bytes of a file as they are read."""

    def update(self, data: BytesLike) -> None:
        """Add the next bytes."""


class ByteSource:
    """Reads a file or pipe once, decompressing it if it is compressed, and counts the bytes read."""

    def __init__(self, path: Path, digest: Digest | None = None) -> None:
        """Open the file; ``digest`` gets all bytes that are read, decompressed.

        Raises:
            CaptureFileError: the file cannot be opened.
        """
        self.path = path
        self._bytes_read = 0
        self._digest = digest
        self._compressed: DecompressingStream | None = None
        self._buffer = memoryview(b"")
        self.at_end = False
        """True after a read returned fewer bytes than requested."""
        try:
            self._file = os.fdopen(os.dup(0), "rb") if path == STANDARD_INPUT else path.open("rb")
        except OSError as error:
            raise CaptureFileError(
                f"{path}: {error.strerror}; give a pcap or pcapng file that can be read"
            ) from error
        self.size_bytes = os.fstat(self._file.fileno()).st_size
        kind = self._compression()
        if kind:
            self._compressed = kind(self._file)
            self._file = io.BufferedReader(self._compressed)

    def _compression(self) -> type[DecompressingStream] | None:
        """Return the class that decompresses the file; None if it is not compressed."""
        start = self.peek(len(zstd_stream.MAGIC))
        if start.startswith(gunzip_stream.MAGIC):
            return GunzipStream
        return ZstdStream if start == zstd_stream.MAGIC else None

    @property
    def position_bytes(self) -> int:
        """The number of bytes of the file read so far; compressed bytes if it is compressed."""
        return self._compressed.input_bytes if self._compressed else self._bytes_read

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def peek(self, size: int) -> bytes:
        """Return the next bytes without consuming them; fewer at the end of the file.

        Raises:
            CaptureFileError: the system cannot read the file.
        """
        try:
            return self._file.peek(size)[:size]
        except OSError as error:
            raise self._unreadable(error) from error

    def read(self, size: int) -> bytes:
        """Return the next bytes; fewer at the end of the file.

        Raises:
            CaptureFileError: the system cannot read the file.
        """
        try:
            data = self._file.read(size)
        except OSError as error:
            raise self._unreadable(error) from error
        self._advance(data, size)
        return data

    def read_after(self, rest: memoryview) -> memoryview:
        """Return ``rest``, the unused end of the last such buffer, followed by the next chunk.

        The memory of the last buffer is used again, because fresh memory costs more than reading.

        Raises:
            CaptureFileError: the system cannot read the file.
        """
        kept, size = len(rest), CHUNK_BYTES if self.size_bytes else min(CHUNK_BYTES, PIPE_CHUNK_BYTES)
        if kept + size > len(self._buffer):
            self._buffer = memoryview(bytearray(kept + size + SPARE_BYTES))
        self._buffer[:kept] = rest
        try:
            count = self._file.readinto(self._buffer[kept : kept + size])
        except OSError as error:
            raise self._unreadable(error) from error
        self._advance(self._buffer[kept : kept + count], size)
        return self._buffer[: kept + count]

    def skip(self, size: int) -> bool:
        """Skip the next bytes; return False if the file ends before.

        Raises:
            CaptureFileError: the system cannot read the file.
        """
        while size and not self.at_end:
            size -= len(self.read(min(size, SKIP_BYTES)))
        return not self.at_end

    def _advance(self, data: BytesLike, size: int) -> None:
        self._bytes_read += len(data)
        self.at_end = len(data) < size
        if self._digest:
            self._digest.update(data)

    def _unreadable(self, error: OSError) -> CaptureFileError:
        return CaptureFileError(
            f"{self.path}: reading failed at byte {self.position_bytes} ({error.strerror}); "
            "copy the file to another disk"
        )

    def damage(self, what: str) -> CaptureFileError:
        """Return the error for damage in the file; the frames before it have been read."""
        if self._compressed and self._compressed.fault:
            what = f"its {self._compressed.format} data is {self._compressed.fault}"
        return CaptureFileError(
            f"{self.path}: {what}; frames before it were read; copy the file again to get the rest"
        )

    def check_compression(self) -> None:
        """Check, at the end of the file, that all of it could be decompressed.

        Raises:
            CaptureFileError: the compressed data is damaged or cut short.
        """
        if self._compressed and self._compressed.fault:
            raise self.damage("")
