"""Items of evidence as lines of text; the loop is in ``lines.c``. Runs in ``sensor read``."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensor.errors import SensorError
from sensor.native import library, pointer
from sensor.protocols import protocol_name
from sensor.text import INCOMPLETE

if not hasattr(library, "format_lines"):
    raise SensorError("the native library is of another version; install sensor again: pip install .")
library.format_lines.restype = ctypes.c_int64
_ITEM_BYTES = ctypes.c_int64.in_dll(library, "item_size").value

_NAMES = np.array([protocol_name(number).encode("ascii") for number in range(256)], "S8")
_MARK = f"  [{INCOMPLETE}]".encode("ascii")
_WORDS = struct.Struct("=II")
_REST_BYTES = 160 + len(_MARK)
"""The most that a line has besides its words: a time, a protocol, two IPv6 addresses with ports, the mark."""


def packed_words(label: bytes, text: bytes) -> bytes:
    """Return the words of a line for `format_lines`: those before the endpoints, and those behind them.

    Both are UTF-8, and escaped already (`sensor.text.shown`, `sensor.text.printable_bytes`).
    """
    return _WORDS.pack(len(label), len(text)) + label + text


def format_lines(items: NDArray[np.void], words: Sequence[bytes], lines: int) -> str:
    """Return the lines of n items, of dtype `sensor.evidence.block.ITEM`.

    ``words`` are those of all lines of each item, from `packed_words`; ``lines`` is the number of lines.
    """
    if items.dtype.itemsize != _ITEM_BYTES:
        raise SensorError("the native library is of another version; install sensor again: pip install .")
    items = np.ascontiguousarray(items)
    packed = b"".join(words)
    ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
    text = np.empty(len(packed) + lines * _REST_BYTES, np.uint8)
    size = library.format_lines(
        pointer(items),
        ctypes.c_int64(len(items)),
        packed,
        pointer(ends),
        pointer(_NAMES),
        _MARK,
        pointer(text),
    )
    return str(text.data[:size], "utf-8")
