"""Numbers for the flows of packets, by ``flow_hash.c``. Runs in the workers and in ``sensor read``."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from sensor.errors import SensorError
from sensor.model import PacketBatch
from sensor.native import library, pointer

if not hasattr(library, "hash_flows"):
    raise SensorError("the native library is of another version; install sensor again: pip install .")
library.hash_flows.restype = ctypes.c_int64
_COLUMNS = (
    ("source_offset", np.int64),
    ("ip_version", np.uint8),
    ("protocol", np.uint8),
    ("tos", np.uint8),
    ("vlan_tci", np.uint16),
    ("sport", np.uint16),
    ("dport", np.uint16),
)


class _PacketColumns(ctypes.Structure):
    """``struct packets``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name, _ in _COLUMNS),
        ("count", ctypes.c_int64),
    )


def hash_flows(
    data: NDArray[np.uint8], packets: PacketBatch, chosen: NDArray[np.intp], seed: int, service: int
) -> NDArray[np.uint64]:
    """Return the flow number of each ``chosen`` packet, shape (len(chosen),).

    Args:
        data: The buffer of the frames.
        packets: The packets of the batch; the chosen ones have an IP header.
        chosen: Positions in the batch.
        seed: 64 bits.
        service: The bits of the type of service that count.

    Raises:
        SensorError: A position or an address is outside of its array.
    """
    columns = [np.ascontiguousarray(getattr(packets, name), kind) for name, kind in _COLUMNS]
    addresses = (column.ctypes.data for column in columns)
    described = _PacketColumns(data.ctypes.data, len(data), *addresses, len(packets))
    positions, keys = np.ascontiguousarray(chosen, np.int64), np.empty(len(chosen), np.uint64)
    done = library.hash_flows(
        ctypes.byref(described),
        pointer(positions),
        ctypes.c_int64(len(positions)),
        ctypes.c_uint64(seed),
        ctypes.c_uint8(service),
        pointer(keys),
    )
    if done < 0:
        raise SensorError("a packet lies outside of its batch; this is a bug: please report it")
    return keys
