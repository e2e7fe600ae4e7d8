"""The table of flows, whose loops are in ``flows.c``. Runs in the capture workers and in ``sensor read``."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

from sensor.native import library, pointer

_count_flows = library.count_flows
_select_packets = library.select_packets
_count_flows.restype = _select_packets.restype = None
library.begin_batch.restype = library.undo_flows.restype = None
library.flow_table_bytes.restype = ctypes.c_uint64


class FlowMemory:
    """The memory of a table of flows, shared with the processes that are forked while it is there."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, library.flow_table_bytes())  # zeroed; pages are allocated when written
        self._address = ctypes.c_void_p(np.frombuffer(self._map, np.uint8).ctypes.data)

    @property
    def address(self) -> int:
        """Address of the memory."""
        return self._address.value or 0

    def begin_batch(self, ring: int) -> None:
        """Forget how to undo changes: all frames so far were reported. The next ones are of this ring."""
        library.begin_batch(self._address, ctypes.c_uint32(ring))

    def undo(self, ring: int, tail: int) -> None:
        """Undo what frames of a ring have changed that were not reported: those from ``tail`` on."""
        library.undo_flows(self._address, ctypes.c_uint32(ring), ctypes.c_uint64(tail))

    def count(
        self,
        idle_ns: int,
        life_ns: int,
        keys: NDArray[np.uint64],
        numbers: NDArray[np.int64],
        born_jiffies: NDArray[np.int64],
        now_ns: NDArray[np.int64],
        positions: NDArray[np.uint64] | None = None,
    ) -> NDArray[np.uint64]:
        """Count packets in their flows, and return the serial number of each packet's flow, shape (n,).

        A flow ends ``idle_ns`` after its last packet and ``life_ns`` after its first. The other parameters
        are those of `sensor.rules.engine.flows.FlowTable.count`.
        """
        serials = np.empty(len(keys), np.uint64)
        arrays = keys, numbers, born_jiffies, now_ns
        _count_flows(
            self._address,
            ctypes.c_int64(idle_ns),
            ctypes.c_int64(life_ns),
            *(pointer(array) for array in arrays),
            positions if positions is None else pointer(positions),
            pointer(serials),
            ctypes.c_int64(len(keys)),
        )
        return serials

    def select(
        self,
        serials: NDArray[np.uint64],
        data: NDArray[np.uint8],
        address: NDArray[np.int64],
        size: NDArray[np.uint8],
        first: NDArray[np.int64],
        classes: NDArray[np.uint8],
        also: NDArray[np.uint8],
        positions: NDArray[np.uint64] | None = None,
        *,
        by_flow: bool,
        once: bool,
        all_classes: int,
        threat: int,
        wanted: int,
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Decide which of n packets, and which of their m matches, are kept; shapes (n,) and (m,).

        Args:
            serials: From `count`.
            data: The buffer of the frames.
            address: Start of each packet's source address in ``data``; the destination follows it.
            size: Size of each packet's addresses, 4 or 16.
            first: First match of each packet, shape (n + 1,).
            classes: The bit of each match's class.
            also: Further bits that a match labels its flow with.
            positions: As for `count`.
            by_flow: Keep the packet that opens a flow, and the first answer to it.
            once: A class counts once per flow.
            all_classes: The bits of all classes: nothing more in a flow with all of them is kept.
            threat: The bit after which one more answer is kept.
            wanted: A packet is kept if a match that counts is of one of these classes.
        """
        keep_packet, keep_match = np.zeros(len(serials), np.uint8), np.zeros(len(classes), np.uint8)
        _select_packets(
            self._address,
            *(pointer(array) for array in (serials, data, address, size, first)),
            *(pointer(array) for array in (classes, also)),
            positions if positions is None else pointer(positions),
            ctypes.c_int64(len(serials)),
            ctypes.c_int(by_flow),
            ctypes.c_int(once),
            *(ctypes.c_uint8(bits) for bits in (all_classes, threat, wanted)),
            pointer(keep_packet),
            pointer(keep_match),
        )
        return keep_packet.view(np.bool_), keep_match.view(np.bool_)
