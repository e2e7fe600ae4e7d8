"""The two loops that run once for every candidate, in C: over ring records, and over payloads.

Runs in the capture workers and in ``sensor read``. Everything around them is numpy over whole
batches. ``batch.c`` is compiled when the package is built (``hatch_build.py``); calls let go of
the interpreter's lock.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import hyperscan._hs_ext
import numpy as np
from numpy.typing import NDArray

from sensor.errors import SensorError

_LIBRARY = Path(__file__).with_name("batch.so")

HIT = np.dtype([("payload", "=i8"), ("id", "=u4"), ("end", "=u4")])
"""Which payload, what hit it, and where the hit ends in it."""

_HITS = 1 << 16
_HS_SUCCESS = 0


def _load() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(_LIBRARY))
    except OSError as error:
        raise SensorError(
            f"{_LIBRARY} cannot be loaded; install sensor again: pip install . ({error})"
        ) from error


_native = _load()
_native.load_acquire.restype = ctypes.c_uint64
_native.walk_records.restype = ctypes.c_int64
_native.scan_each.restype = ctypes.c_int64

# Hyperscan's own C functions, as its Python package carries them (hs.h).
_hyperscan = ctypes.CDLL(hyperscan._hs_ext.__file__)
_SCAN = ctypes.cast(_hyperscan.hs_scan, ctypes.c_void_p)


def address(buffer: memoryview) -> int:
    """Return where a buffer stands in memory; it stays there as long as the buffer is held."""
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def load_acquire(word_address: int) -> int:
    """Read a 64-bit word that another processor writes: what it wrote before is seen after."""
    return int(_native.load_acquire(ctypes.c_void_p(word_address)))


def store_release(word_address: int, value: int) -> None:
    """Write a 64-bit word that another processor reads: what was read before is done with."""
    _native.store_release(ctypes.c_void_p(word_address), ctypes.c_uint64(value))


def walk_records(
    data_address: int, position: int, limit: int, size: int, meta: np.dtype[np.void], capacity: int
) -> tuple[NDArray[np.int64], NDArray[np.void], int]:
    """Step over perf records in a ring of ``size`` bytes, from one offset up to another.

    Returns the offsets of the samples' raw data, the metadata in front of each (shape (n,), of
    dtype ``meta``), and where the first record starts that is not taken: because it reaches over the
    ring's edge, because ``capacity`` samples have been found, or because it is behind ``limit``.
    """
    raw = np.empty(capacity, np.int64)
    found = np.empty(capacity, meta)
    end = ctypes.c_uint64(position)
    count = _native.walk_records(
        ctypes.c_void_p(data_address),
        ctypes.byref(end),
        ctypes.c_uint64(limit),
        ctypes.c_uint64(size),
        ctypes.c_void_p(raw.ctypes.data),
        ctypes.c_void_p(found.ctypes.data),
        ctypes.c_uint64(meta.itemsize),
        ctypes.c_int64(capacity),
    )
    return raw[:count], found[:count], end.value


class BatchScan:
    """A Hyperscan database in block mode that scans many payloads in one call; it belongs to one thread."""

    def __init__(self, database: hyperscan.Database) -> None:
        """Copy the database, whose pointer its Python object does not give away.

        Raises:
            SensorError: Hyperscan refused, for want of memory.
        """
        self._database, self._scratch = ctypes.c_void_p(), ctypes.c_void_p()
        serial = hyperscan.dumpb(database)
        _check(
            _hyperscan.hs_deserialize_database(
                serial, ctypes.c_size_t(len(serial)), ctypes.byref(self._database)
            )
        )
        _check(_hyperscan.hs_alloc_scratch(self._database, ctypes.byref(self._scratch)))
        self._hits = np.empty(_HITS, HIT)

    def __del__(self) -> None:
        _hyperscan.hs_free_scratch(self._scratch)
        _hyperscan.hs_free_database(self._database)

    def scan_each(
        self,
        data_address: int,
        start: NDArray[np.int64],
        end: NDArray[np.int64],
        chosen: NDArray[np.int64],
    ) -> NDArray[np.void]:
        """Scan the ``chosen`` payloads, each from ``start`` up to ``end`` in the data; `HIT`, in that order.

        Raises:
            SensorError: A scan failed.
        """
        done = ctypes.c_int64(0)
        parts = []
        while done.value < len(chosen):
            count = _native.scan_each(
                _SCAN,
                self._database,
                self._scratch,
                ctypes.c_void_p(data_address),
                ctypes.c_void_p(start.ctypes.data),
                ctypes.c_void_p(end.ctypes.data),
                ctypes.c_void_p(chosen.ctypes.data),
                ctypes.c_int64(len(chosen)),
                ctypes.byref(done),
                ctypes.c_void_p(self._hits.ctypes.data),
                ctypes.c_int64(len(self._hits)),
            )
            if count < 0:
                raise SensorError("Hyperscan failed to scan a payload")
            parts.append(self._hits[:count].copy())
        return np.concatenate(parts) if parts else np.empty(0, HIT)


def _check(code: int) -> None:
    if code != _HS_SUCCESS:
        raise SensorError(f"Hyperscan refused a database (code {code}); is there enough memory?")
