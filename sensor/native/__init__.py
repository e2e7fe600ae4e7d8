"""The loops that run once per candidate, in C; here the one over ring records.

Runs in the capture workers and in ``sensor read``. Everything around these loops is numpy over whole
batches. ``*.c`` is compiled when the package is built (``hatch_build.py``). Calls release the
interpreter's lock.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import hyperscan._hs_ext
import numpy as np
from numpy.typing import NDArray

from sensor.errors import SensorError

_LIBRARY = Path(__file__).with_name("batch.so")

_HS_SUCCESS = 0


def _load() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(_LIBRARY))
    except OSError as error:
        raise SensorError(
            f"{_LIBRARY} cannot be loaded ({error}); install sensor again: pip install ."
        ) from error


library = _load()
"""The library of this package's C files."""
library.load_acquire.restype = ctypes.c_uint64
library.walk_records.restype = ctypes.c_int64

# Hyperscan's own C functions (hs.h), from the library in its Python package.
hyperscan_library = ctypes.CDLL(hyperscan._hs_ext.__file__)
_free = ctypes.CDLL(None).free


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    """Return a pointer to the first byte of an array, which must be contiguous and be held meanwhile."""
    return ctypes.c_void_p(array.ctypes.data)


def address(buffer: memoryview) -> int:
    """Return the memory address of a buffer; it is valid as long as the buffer is held."""
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def load_acquire(word_address: int) -> int:
    """Read a 64-bit word that another processor writes; what it wrote earlier is visible afterwards."""
    return int(library.load_acquire(ctypes.c_void_p(word_address)))


def store_release(word_address: int, value: int) -> None:
    """Write a 64-bit word that another processor reads; this thread's earlier reads are then complete."""
    library.store_release(ctypes.c_void_p(word_address), ctypes.c_uint64(value))


def walk_records(
    data_address: int, position: int, limit: int, size: int, meta: np.dtype[np.void], capacity: int
) -> tuple[NDArray[np.int64], NDArray[np.void], int]:
    """Walk the perf records in a ring of ``size`` bytes, from ``position`` up to ``limit``.

    Returns the offset of each sample's raw data, the metadata at its start (shape (n,), of dtype
    ``meta``), and the offset of the first record that was not read. The walk stops at a record that
    crosses the ring's edge, after ``capacity`` samples, and at ``limit``.
    """
    raw = np.empty(capacity, np.int64)
    found = np.empty(capacity, meta)
    end = ctypes.c_uint64(position)
    count = library.walk_records(
        ctypes.c_void_p(data_address),
        ctypes.byref(end),
        ctypes.c_uint64(limit),
        ctypes.c_uint64(size),
        pointer(raw),
        pointer(found),
        ctypes.c_uint64(meta.itemsize),
        ctypes.c_int64(capacity),
    )
    return raw[:count], found[:count], end.value


def check_hyperscan(code: int) -> None:
    """Raise a `SensorError` if a call of Hyperscan failed."""
    if code != _HS_SUCCESS:
        raise SensorError(f"Hyperscan cannot set up a database (code {code}); check that memory is free")


class _CompileError(ctypes.Structure):
    """``hs_compile_error_t``."""

    _fields_ = (("message", ctypes.c_char_p), ("expression", ctypes.c_int))


def hyperscan_complaint(expression: bytes, flags: int) -> str | None:
    """Return why Hyperscan cannot read an expression, which must not contain zero bytes; None if it can."""
    info, error = ctypes.c_void_p(), ctypes.POINTER(_CompileError)()
    code = hyperscan_library.hs_expression_info(
        expression, ctypes.c_uint(flags), ctypes.byref(info), ctypes.byref(error)
    )
    _free(info)
    if code == _HS_SUCCESS:
        return None
    message = error.contents.message.decode("latin-1") if error else f"code {code}"
    hyperscan_library.hs_free_compile_error(error)
    return message
