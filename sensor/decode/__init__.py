"""Decodes frames to packets: header fields and payload spans. Runs in workers and in ``sensor read``.

The loop over the frames is in ``sensor/native/decode.c``, and each layer is a header file in
``sensor/native/decode/``. ``bpf/parse.h`` applies the same rules in the kernel, up to the first tunnel; the
tests compare the two.
"""

from __future__ import annotations

import ctypes
from dataclasses import fields

import numpy as np

from sensor.errors import SensorError
from sensor.model import FrameBatch, PacketBatch
from sensor.native import address, library

if not hasattr(library, "decode_frames"):
    raise SensorError("the native library is of another version; install sensor again: pip install .")
library.decode_frames.restype = ctypes.c_int64


class _Frames(ctypes.Structure):
    """``struct frames``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("start", ctypes.c_void_p),
        ("caplen", ctypes.c_void_p),
        ("wirelen", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("link_type", ctypes.c_int64),
    )


class _DecodedColumns(ctypes.Structure):
    """``struct packets``, whose columns are those of `PacketBatch`, in the same order."""

    _fields_ = tuple((column.name, ctypes.c_void_p) for column in fields(PacketBatch))


def decode(batch: FrameBatch) -> PacketBatch:
    """Return one packet for each frame of a batch, in the same order; no bytes raise an exception.

    Only a frame's ``caplen`` bytes are read. A header cut off there makes the packet MALFORMED; a
    payload ends there. Fields decoded before an UNKNOWN or MALFORMED header are kept. Frames of a
    link type that is not in `LinkType` are UNKNOWN.

    Up to two tunnels are entered, and the innermost packet is the one returned. A packet with a third
    tunnel is UNKNOWN. A datagram to a tunnel's port that carries no such packet is ordinary payload.

    Raises:
        SensorError: A frame is not within the buffer.
    """
    count = len(batch)
    packets = PacketBatch(
        status=np.empty(count, np.uint8),
        ip_version=np.empty(count, np.uint8),
        protocol=np.empty(count, np.uint8),
        tos=np.empty(count, np.uint8),
        vlan_count=np.empty(count, np.uint8),
        vlan_tci=np.empty((count, 2), np.uint16),
        source_offset=np.empty(count, np.int64),
        sport=np.empty(count, np.uint16),
        dport=np.empty(count, np.uint16),
        payload_start=np.empty(count, np.int64),
        payload_end=np.empty(count, np.int64),
        tcp_flags=np.empty(count, np.uint8),
    )
    columns = [
        np.ascontiguousarray(column, np.int64) for column in (batch.start, batch.caplen, batch.wirelen)
    ]
    if any(column.shape != (count,) for column in columns):
        raise SensorError("the columns of the frames differ in length; this is a bug: please report it")
    frames = _Frames(
        address(batch.buffer),
        batch.buffer.nbytes,
        *(column.ctypes.data for column in columns),
        count,
        batch.linktype,
    )
    decoded = _DecodedColumns(*(getattr(packets, column.name).ctypes.data for column in fields(PacketBatch)))
    done = library.decode_frames(ctypes.byref(frames), ctypes.byref(decoded))
    if done < count:
        raise SensorError(f"frame {done} of a batch lies outside of it; this is a bug: please report it")
    return packets
