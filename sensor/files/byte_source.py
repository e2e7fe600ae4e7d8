"""A capture file as a row of bytes, and what is said when it is no good; runs in ``sensor read``."""

from __future__ import annotations

import os
from pathlib import Path

from sensor.errors import CaptureFileError

FRAME_SIZE_MAX = 262_144
"""The longest frame that libpcap writes or reads (MAXIMUM_SNAPLEN); a longer one is damage."""


class ByteSource:
    """Reads a file from its start to its end, once, and knows how far it has come."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            CaptureFileError: It cannot be opened.
        """
        self.path = path
        self.position_bytes = 0
        self.ended = False
        """A read came back with less than was asked for."""
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise CaptureFileError(
                f"{path}: {error.strerror}; name a pcap or pcapng file that you may read"
            ) from error
        self.size_bytes = os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def peek(self, size: int) -> bytes:
        """Look at the next bytes, fewer where the file ends, and leave them there.

        Raises:
            CaptureFileError: The system cannot read the file.
        """
        try:
            return self._file.peek(size)[:size]
        except OSError as error:
            raise self._unreadable(error) from error

    def read(self, size: int) -> bytes:
        """Read that many bytes, or fewer where the file ends.

        Raises:
            CaptureFileError: The system cannot read the file.
        """
        try:
            data = self._file.read(size)
        except OSError as error:
            raise self._unreadable(error) from error
        self._advance(len(data), size)
        return data

    def read_behind(self, rest: memoryview, size: int) -> memoryview:
        """Read like `read` into a buffer that starts with ``rest``, what was left of the last one.

        Raises:
            CaptureFileError: The system cannot read the file.
        """
        buffer = memoryview(bytearray(len(rest) + size))
        buffer[: len(rest)] = rest
        try:
            count = self._file.readinto(buffer[len(rest) :])
        except OSError as error:
            raise self._unreadable(error) from error
        self._advance(count, size)
        return buffer[: len(rest) + count]

    def _advance(self, count: int, size: int) -> None:
        self.position_bytes += count
        self.ended = count < size

    def _unreadable(self, error: OSError) -> CaptureFileError:
        return CaptureFileError(
            f"{self.path}: reading failed behind byte {self.position_bytes} ({error.strerror}); "
            "copy the file to a disk that works"
        )

    def fault(self, what: str) -> CaptureFileError:
        """Say what stopped the reading of a file whose earlier frames have been handed on."""
        return CaptureFileError(
            f"{self.path}: {what}; frames before that were read, for the others copy the file again"
        )
