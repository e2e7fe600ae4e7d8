"""Records of evidence files, whose loops are in ``records.c``. Runs where evidence is made."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from sensor.native import library, pointer

HEADER_BYTES = 16

library.write_records.restype = library.copy_records.restype = None


def write_records(
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    caplen: NDArray[np.uint32],
    wirelen: NDArray[np.uint32],
    time_ns: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Return the pcap records of n frames, one after the other: a header, then ``caplen`` bytes.

    Each frame starts at ``start`` in ``data``. Times are cut to microseconds.
    """
    records = np.empty(int(caplen.sum()) + HEADER_BYTES * len(caplen), np.uint8)
    columns = [np.ascontiguousarray(column) for column in (start, caplen, wirelen, time_ns)]
    library.write_records(
        pointer(data),
        *(pointer(column) for column in columns),
        ctypes.c_int64(len(start)),
        pointer(records),
    )
    return records


def copy_records(
    data: NDArray[np.uint8], start: NDArray[np.uint32], size: NDArray[np.uint32]
) -> NDArray[np.uint8]:
    """Return copies of the records that lie at ``start`` in ``data``, one after the other."""
    records = np.empty(int(size.sum()), np.uint8)
    library.copy_records(
        pointer(data),
        pointer(start),
        pointer(size),
        ctypes.c_int64(len(start)),
        pointer(records),
    )
    return records
