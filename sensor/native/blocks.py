"""The loop over the blocks of a pcapng file, in C (``blocks.c``). Runs in ``sensor read``."""

from __future__ import annotations

import ctypes
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from sensor.errors import SensorError
from sensor.native import address, library

if not hasattr(library, "walk_blocks"):
    raise SensorError("the native library is of another version; install sensor again: pip install .")
library.walk_blocks.restype = ctypes.c_int64

INTERFACE = np.dtype(
    [
        ("factor", "=u8"),
        ("divisor", "=u8"),
        ("offset_s", "=i8"),
        ("shift", "=u4"),
        ("snaplen", "=u4"),
        ("linktype", "=u8"),
    ]
)
"""``struct interface``: a frame's time is (ticks * factor >> shift) // divisor ns, plus ``offset_s``."""

_FIRST_INTERFACES = 16


class Stop(IntEnum):
    """The reason why a walk stopped; mirrors ``enum stop``."""

    MORE = 0
    """The next block is not whole."""
    FULL = 1
    """There is no room for another frame."""
    LINKTYPE = 2
    """The next frame has another link type."""
    SECTION = 3
    """The next block is a section header, which is not checked."""
    INTERFACE = 4
    """The next block is an interface description; ``claim`` is its length, which is right."""
    BAD_LENGTH = 5
    BAD_END = 6
    """The length at the end of the block differs from the one at its start."""
    BAD_INTERFACE = 7
    BAD_FRAME = 8
    """A frame is longer than its block, or than any frame."""


class _Walk(ctypes.Structure):
    """``struct walk``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("position", ctypes.c_uint64),
        ("interfaces", ctypes.c_void_p),
        ("interface_count", ctypes.c_uint64),
        ("first_number", ctypes.c_uint64),
        ("swapped", ctypes.c_uint64),
        ("columns", ctypes.c_void_p),
        ("capacity", ctypes.c_uint64),
        ("count", ctypes.c_uint64),
        ("linktype", ctypes.c_uint64),
        ("clamped", ctypes.c_uint64),
        ("claim", ctypes.c_uint64),
    )


class BlockWalk:
    """A walk over the blocks of one file, buffer by buffer; it collects at most ``capacity`` frames."""

    def __init__(self, capacity: int) -> None:
        self.buffer = memoryview(b"")
        self._interfaces = np.empty(_FIRST_INTERFACES, INTERFACE)
        self._walk = _Walk(capacity=capacity)
        self._make_room()

    def _make_room(self) -> None:
        self._columns = np.empty((5, self._walk.capacity), np.int64)
        self._walk.columns, self._walk.count = self._columns.ctypes.data, 0

    @property
    def position(self) -> int:
        """The start of the next block in the buffer."""
        return int(self._walk.position)

    @property
    def count(self) -> int:
        """The number of frames collected."""
        return int(self._walk.count)

    @property
    def linktype(self) -> int:
        """The link type of the frames collected."""
        return int(self._walk.linktype)

    @property
    def clamped(self) -> int:
        """The number of frames in the file whose time did not fit into 64 bits of nanoseconds."""
        return int(self._walk.clamped)

    @property
    def claim(self) -> int:
        """The length or number that the last stop is about."""
        return int(self._walk.claim)

    @property
    def interface_count(self) -> int:
        """The number of interfaces in the section."""
        return int(self._walk.interface_count)

    def enter(self, buffer: memoryview) -> None:
        """Continue at the start of another buffer; the last one must have no frames left to pop."""
        self.buffer = buffer
        walk = self._walk
        walk.data, walk.size, walk.position = address(buffer), len(buffer), 0

    def skip(self, size: int) -> None:
        """Continue after the next ``size`` bytes, which must be in the buffer."""
        self._walk.position += size

    def start_section(self, *, swapped: bool) -> None:
        """Forget the interfaces; ``swapped`` says that the section has the other byte order."""
        self._walk.swapped = swapped
        self._walk.first_number += self._walk.interface_count
        self._walk.interface_count = 0

    def add_interface(self, interface: tuple[int, ...]) -> None:
        """Add an interface to the section; the values are those of `INTERFACE`, in that order."""
        count = self.interface_count
        if count == len(self._interfaces):
            self._interfaces = np.concatenate([self._interfaces, np.empty_like(self._interfaces)])
        self._interfaces[count] = interface
        self._walk.interfaces = self._interfaces.ctypes.data
        self._walk.interface_count = count + 1

    def run(self) -> Stop:
        """Walk up to the next block that stops the walk, and return the reason."""
        return Stop(library.walk_blocks(ctypes.byref(self._walk)))

    def pop_frames(self) -> NDArray[np.int64]:
        """Return the frames collected since the last call, and forget them.

        Shape (5, n): start in the buffer, captured length, wire length, nanoseconds, number of the
        interface in the file.
        """
        frames = self._columns[:, : self.count]
        self._make_room()
        return frames
