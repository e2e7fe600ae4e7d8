"""Decompresses Zstandard while it is read (RFC 8878), with the system's libzstd. Runs in ``sensor read``.

The library is part of every Debian system, because dpkg needs it.
"""

from __future__ import annotations

import ctypes
import io

from sensor.files.decompression import OUTPUT_BYTES, DecompressingStream

MAGIC = b"\x28\xb5\x2f\xfd"
LIBRARY = "libzstd.so.1"
WINDOW_LOG_MAX = 27
"""Frames that need more than 128 MiB of memory are refused, as by the program zstd."""
_PARAMETER_WINDOW_LOG_MAX = 100


class _Buffer(ctypes.Structure):
    """``ZSTD_inBuffer`` and ``ZSTD_outBuffer``."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t))


class ZstdStream(DecompressingStream):
    """The decompressed bytes of a Zstandard file, of one or more frames.

    Raises:
        OSError: the library is not installed.
    """

    format = "Zstandard"

    def __init__(self, file: io.BufferedReader) -> None:
        self._context = None
        self._library = library = ctypes.CDLL(LIBRARY)
        library.ZSTD_createDCtx.restype = ctypes.c_void_p
        library.ZSTD_decompressStream.restype = ctypes.c_size_t
        library.ZSTD_DCtx_setParameter.restype = ctypes.c_size_t
        super().__init__(file)
        self._context = ctypes.c_void_p(library.ZSTD_createDCtx())
        library.ZSTD_DCtx_setParameter(self._context, _PARAMETER_WINDOW_LOG_MAX, WINDOW_LOG_MAX)
        self._output = ctypes.create_string_buffer(OUTPUT_BYTES)
        self._is_between_frames = True

    def close(self) -> None:
        """Close the file."""
        if self._context:
            self._library.ZSTD_freeDCtx(self._context)
        self._context = None
        super().close()

    def _next(self, size: int) -> bytes:
        """Return up to ``size`` bytes; none between two frames, or if more input is needed."""
        is_last_input = not self._input and not self._read_input()
        if is_last_input and self._is_between_frames:
            self._end("")
            return b""
        source = ctypes.create_string_buffer(self._input, len(self._input))
        taken = _Buffer(ctypes.addressof(source), len(self._input), 0)
        given = _Buffer(ctypes.addressof(self._output), size, 0)
        left = self._library.ZSTD_decompressStream(self._context, ctypes.byref(given), ctypes.byref(taken))
        if self._library.ZSTD_isError(ctypes.c_size_t(left)):
            self._end("damaged, or needs too much memory")
            return b""
        self._input = self._input[taken.position :]
        self._is_between_frames = left == 0
        if is_last_input and not given.position and left:
            self._end("cut short")
        return ctypes.string_at(self._output, given.position)
