"""The table of sources, whose loops are in ``sources.c``. Runs in the capture workers and the supervisor."""

from __future__ import annotations

import ctypes
import mmap
import secrets
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.errors import SensorError
from sensor.native import library, pointer

SOURCES = 1 << 14
"""Places for sources."""

_SUMS = np.dtype([("at_ns", "<i8"), ("offered", "<f8"), ("matched", "<f8"), ("cost_ns", "<f8")])
_USUAL = np.dtype([("calm_ns", "<i8"), ("cost_ns", "<f8")])
SOURCE = np.dtype(
    [
        ("key", "<u8"),
        ("born_ns", "<i8"),
        ("sums", _SUMS),
        ("usual", _USUAL),
        ("sampled", "<u8"),
        ("address", "u1", 16),
        ("version", "<u4"),
        ("reserved", "<u4"),
    ]
)
"""``struct source``."""
_LISTING = np.dtype(
    [
        ("demand", "<f8", SOURCES + 1),
        ("offered", "<f8", SOURCES + 1),
        ("matched", "<f8", SOURCES + 1),
        ("usual", "<f8", SOURCES + 1),
        ("is_known", "?", SOURCES + 1),
    ],
    align=True,
)
"""``struct listing``."""
_TABLE = np.dtype(
    [("at_ns", "<i8"), ("calm_ns", "<i8"), ("all", _SUMS), ("rest", _SUMS), ("sources", SOURCE, SOURCES)]
)

library.hash_sources.restype = library.charge_sources.restype = None
library.list_sources.restype = library.admit_packets.restype = None
if (
    ctypes.c_uint64.in_dll(library, "source_table_bytes").value != _TABLE.itemsize
    or ctypes.c_uint64.in_dll(library, "listing_bytes").value != _LISTING.itemsize
):
    raise SensorError("the native library is of another version; install sensor again: pip install .")


class _Packets(ctypes.Structure):
    """``struct packets``."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("address", ctypes.c_void_p),
        ("version", ctypes.c_void_p),
        ("sport", ctypes.c_void_p),
        ("dport", ctypes.c_void_p),
        ("time_ns", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        ("count", ctypes.c_int64),
    ]


class _Levels(ctypes.Structure):
    """``struct levels``."""

    _fields_ = [("known", ctypes.c_double), ("unknown", ctypes.c_double), ("usual", ctypes.c_double)]


class SourceColumns(NamedTuple):
    """The parts of n packets with an IP header that the table reads: one array entry per packet."""

    address: NDArray[np.int64]
    """Offset of the source address in the buffer; the destination follows it."""
    version: NDArray[np.uint8]
    """4 or 6."""
    sport: NDArray[np.uint16]
    dport: NDArray[np.uint16]
    time_ns: NDArray[np.int64]
    """Arrival of the packet."""

    def part(self, chosen: slice) -> SourceColumns:
        """Return the columns of the chosen packets."""
        return SourceColumns._make(column[chosen] for column in self)


class Listing(NamedTuple):
    """All places of the table at one moment, and at the end the sources that have none, as if they were one.

    Every array has shape (SOURCES + 1,), with zeros for a place that no source has.
    """

    demand: NDArray[np.float64]
    """Share of a CPU that it takes to match all packets of the source."""
    offered: NDArray[np.float64]
    """Packets that could be matched; what was half a second ago counts half."""
    matched: NDArray[np.float64]
    """Those that were matched; the others were sampled."""
    usual: NDArray[np.float64]
    """The usual part of the demand: at most 0.02, and twice what the source cost in the last calm minutes."""
    is_known: NDArray[np.bool_]
    """True for a source that has sent for at least ten seconds."""


class SourceTable:
    """Costs by source, in memory that is shared with the processes that are forked while it is there.

    The costs of a packet count half after half a second. The memory may hold anything, since a hostile
    worker can write to it.
    """

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, _TABLE.itemsize)  # zeroed; pages are allocated when written
        self._table = np.frombuffer(self._map, _TABLE)
        self._seed = np.array([secrets.randbits(64) for _ in range(2)], np.uint64)

    @property
    def shared_address(self) -> int:
        """Address of the shared memory."""
        return int(self._table.ctypes.data)

    @property
    def changed_ns(self) -> int:
        """Arrival of the last packet that was charged, to within a millisecond."""
        return int(self._table["all"]["at_ns"][0])

    def sampled(self) -> NDArray[np.uint64]:
        """Return the packets sampled of each source since it has its place, shape (SOURCES,)."""
        sampled: NDArray[np.uint64] = self._table["sources"][0]["sampled"]
        return sampled

    def sources(self, places: NDArray[np.intp]) -> NDArray[np.void]:
        """Return the sources in these places, of dtype `SOURCE`."""
        sources: NDArray[np.void] = self._table["sources"][0][places]
        return sources

    def charge(
        self,
        data: NDArray[np.uint8],
        packets: SourceColumns,
        cost_ns: NDArray[np.int64],
        *,
        is_calm: bool = False,
    ) -> None:
        """Add the cost of each packet, whose frame is in ``data``, to its source; -1 if it was sampled.

        ``is_calm`` says that there is no overload, so that the cost is a usual one.
        """
        columns, held = self._packets(data, packets)
        cost_ns = np.ascontiguousarray(cost_ns, np.int64)
        library.charge_sources(pointer(self._table), ctypes.byref(columns), pointer(cost_ns), int(is_calm))
        del held

    def listing(self, now_ns: int) -> Listing:
        """Return all sources as they are at this time."""
        listing = np.zeros(1, _LISTING)
        library.list_sources(pointer(self._table), ctypes.c_int64(now_ns), pointer(listing))
        return Listing._make(listing[0])

    def admit(
        self,
        data: NDArray[np.uint8],
        packets: SourceColumns,
        now_ns: int,
        known: float,
        unknown: float,
        usual: float = 0.0,
    ) -> NDArray[np.bool_]:
        """Return True for each packet to match, so that no source has more than its share of a CPU.

        ``known`` is the level of known sources, ``unknown`` that of all others. ``usual`` is the part of the
        usual demand, 0 to 1, which comes on top.
        """
        kept = np.empty(len(packets.address), np.bool_)
        columns, held = self._packets(data, packets)
        library.admit_packets(
            pointer(self._table),
            ctypes.byref(columns),
            pointer(self._seed),
            ctypes.byref(_Levels(known, unknown, usual)),
            ctypes.c_int64(now_ns),
            pointer(kept),
        )
        del held
        return kept

    def _packets(
        self, data: NDArray[np.uint8], packets: SourceColumns
    ) -> tuple[_Packets, list[NDArray[np.generic]]]:
        """Return ``struct packets``, and the arrays to which it points."""
        keys = np.empty(len(packets.address), np.uint64)
        types = (np.int64, np.uint8, np.uint16, np.uint16, np.int64)
        held: list[NDArray[np.generic]] = [
            data,
            *(np.ascontiguousarray(column, dtype) for column, dtype in zip(packets, types, strict=True)),
            keys,
        ]
        columns = _Packets(*(array.ctypes.data for array in held), len(keys))
        library.hash_sources(ctypes.byref(columns), pointer(self._seed), pointer(keys))
        return columns, held
