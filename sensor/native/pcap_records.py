"""The loop over the records of a pcap file, in C (``pcap.c``). Runs in ``sensor read``."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from sensor.errors import SensorError
from sensor.native import address, library, pointer

HEADER_BYTES_MIN = 16

if not hasattr(library, "walk_pcap"):
    raise SensorError("the native library is of another version; install sensor again: pip install .")
library.walk_pcap.restype = ctypes.c_int64
library.record_caplen.restype = ctypes.c_uint32


class RecordLayout(ctypes.Structure):
    """``struct layout``: how the records of one file are laid out."""

    _fields_ = (
        ("swapped", ctypes.c_uint32),
        ("header_bytes", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("fraction_ns", ctypes.c_uint32),
    )

    def caplen(self, header: memoryview) -> int:
        """Return the captured length in the header of a record."""
        return int(library.record_caplen(ctypes.byref(self), bytes(header[:HEADER_BYTES_MIN])))

    def walk(self, buffer: memoryview, position: int, capacity: int) -> tuple[NDArray[np.int64], int]:
        """Walk up to ``capacity`` whole records from ``position`` on.

        Returns their columns, shape (4, n): start of the frame in the buffer, captured length, wire length,
        nanoseconds. Also returns the position of the next record.
        """
        columns = np.empty((4, capacity), np.int64)
        end = ctypes.c_uint64(position)
        count = library.walk_pcap(
            ctypes.byref(self),
            ctypes.c_void_p(address(buffer)),
            ctypes.c_uint64(len(buffer)),
            ctypes.byref(end),
            pointer(columns),
            ctypes.c_int64(capacity),
        )
        return columns[:, :count], end.value
