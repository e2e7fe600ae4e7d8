"""Tries a pair of databases on texts that a rule must match. The loop is in ``witness_scanner.c``.

Runs where rules are compiled.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from sensor.errors import SensorError
from sensor.native import check_hyperscan, hyperscan_library, library, pointer
from sensor.native.batch_matcher import Databases


class _Scanner(ctypes.Structure):
    """``struct witness_scanner``."""

    _fields_ = [
        ("scan", ctypes.c_void_p),
        ("scan_stream", ctypes.c_void_p),
        ("reset_stream", ctypes.c_void_p),
        ("whole", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("patience_ns", ctypes.c_int64),
        ("mask", ctypes.c_uint32),
        ("wanted", ctypes.c_uint32),
        ("slice", ctypes.c_uint32),
        ("is_found", ctypes.c_uint32),
    ]


library.first_missed.restype = ctypes.c_int64
if ctypes.c_int64.in_dll(library, "witness_scanner_size").value != ctypes.sizeof(_Scanner):
    raise SensorError("the native library is of another version; install sensor again: pip install .")


class WitnessScanner:
    """A pair of databases, loaded to be tried. It belongs to one thread."""

    def __init__(self, databases: Databases, slice_bytes: int) -> None:
        """Load the databases; texts longer than ``slice_bytes`` are scanned in slices of this size.

        Raises:
            SensorError: Hyperscan has too little memory, or a database is not one of this release.
        """
        self._whole, self._sliced = ctypes.c_void_p(), ctypes.c_void_p()
        self._stream, self._scratch = ctypes.c_void_p(), ctypes.c_void_p()
        for serial, database in ((databases.whole, self._whole), (databases.sliced, self._sliced)):
            if serial is None:
                raise SensorError("there is no database to try; this is a bug: please report it")
            size = ctypes.c_size_t(len(serial))
            check_hyperscan(hyperscan_library.hs_deserialize_database(serial, size, ctypes.byref(database)))
            check_hyperscan(hyperscan_library.hs_alloc_scratch(database, ctypes.byref(self._scratch)))
        check_hyperscan(hyperscan_library.hs_open_stream(self._sliced, 0, ctypes.byref(self._stream)))
        self._scanner = _Scanner(
            scan=ctypes.cast(hyperscan_library.hs_scan, ctypes.c_void_p),
            scan_stream=ctypes.cast(hyperscan_library.hs_scan_stream, ctypes.c_void_p),
            reset_stream=ctypes.cast(hyperscan_library.hs_reset_stream, ctypes.c_void_p),
            whole=self._whole,
            stream=self._stream,
            scratch=self._scratch,
            slice=slice_bytes,
        )

    def __del__(self) -> None:
        if self._stream:
            hyperscan_library.hs_close_stream(self._stream, None, None, None)
        for database in (self._whole, self._sliced):
            hyperscan_library.hs_free_database(database)
        hyperscan_library.hs_free_scratch(self._scratch)

    def finds(self, wanted: int, mask: int, texts: Sequence[bytes], patience_ns: int) -> bool:
        """Return True if each text has a match whose id is ``wanted`` under ``mask``.

        After ``patience_ns`` of CPU time no further text is tried; at least one is.

        Raises:
            SensorError: A scan failed.
        """
        end = np.cumsum([len(text) for text in texts], dtype=np.int64)
        start = end - np.array([len(text) for text in texts], np.int64)
        self._scanner.wanted, self._scanner.mask, self._scanner.patience_ns = wanted, mask, patience_ns
        data = b"".join(texts)
        missed = library.first_missed(
            ctypes.byref(self._scanner), data, pointer(start), pointer(end), ctypes.c_int64(len(texts))
        )
        if missed < 0:
            raise SensorError("a witness text cannot be scanned; this is a bug: please report it")
        return bool(missed == len(texts))
