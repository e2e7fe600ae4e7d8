"""Decompresses a file while it is read; what gzip and Zstandard have in common. Runs in ``sensor read``."""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

INPUT_BYTES = 1 << 14
OUTPUT_BYTES = 1 << 16


class DecompressingStream(io.RawIOBase):
    """The decompressed bytes of a file.

    Memory is bounded, whatever the ratio. Damage ends the stream after the last bytes that can be
    decompressed, and is described in ``fault``.
    """

    format = ""

    def __init__(self, file: io.BufferedReader) -> None:
        self.fault = ""
        self.input_bytes = 0
        """The number of compressed bytes read."""
        self._file = file
        self._input = b""
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

    @abstractmethod
    def _next(self, size: int) -> bytes:
        """Return up to ``size`` bytes; call `_end` at the end."""

    def _read_input(self) -> bool:
        data = self._file.read(INPUT_BYTES)
        self._input += data
        self.input_bytes += len(data)
        return bool(data)

    def _end(self, fault: str) -> None:
        self._at_end = True
        self.fault = fault
