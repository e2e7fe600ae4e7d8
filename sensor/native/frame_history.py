"""The history of recent frames, whose loops are in ``frame_history.c``.

`HistoryReader` reads it: live, in the memory that the kernel writes at the same time, and in ``sensor read``,
whose frames `FileHistory` remembers.
"""

from __future__ import annotations

import ctypes
import mmap
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.errors import SensorError
from sensor.model import FrameBatch, LinkType
from sensor.native import library, pointer

if not hasattr(library, "history_collect"):
    raise SensorError("the native library is of another version; install sensor again: pip install .")
library.history_collect.restype = ctypes.c_int64
library.history_flows_bytes.restype = ctypes.c_uint64
library.history_is_cut_off.restype = ctypes.c_bool
library.history_write.restype = None

MOST_RECORDS = 4096
MOST_BYTES = 4 << 20
MOST_STEPS = 1 << 20
"""Records of any flow that are looked at, some 10 ns each."""
LONGEST_FRAME = 65535

FOUND = np.dtype(
    [
        ("position", "=u8"),
        ("time_ns", "=u8"),
        ("start", "=u8"),
        ("caplen", "=u4"),
        ("wirelen", "=u4"),
        ("ifindex", "=u4"),
        ("reserved", "=u4"),
    ]
)
"""``struct found``."""


class HistoryEnd(IntEnum):
    """The reason why there are no earlier records; mirrors ``enum history_end``."""

    WHOLE = 0
    """The history has never had any."""
    SINCE = 1
    """They are older than asked for."""
    OVERWRITTEN = 2
    """There may have been some."""
    FULL = 3
    """There are more than fit, or too many of other flows in between."""


class HistoryFrames(NamedTuple):
    """Frames from a history, oldest first."""

    records: NDArray[np.void]
    """Shape (n,), of dtype `FOUND`; ``start`` is the frame's place in ``data``."""
    data: NDArray[np.uint8]
    end: HistoryEnd

    def batch(self, linktype: int = LinkType.ETHERNET, offset_ns: int = 0) -> FrameBatch:
        """Return the frames as a batch, whose interfaces are those of the records.

        Args:
            linktype: Of all frames.
            offset_ns: Nanoseconds since the epoch when the clock of the records was 0.
        """
        start, caplen, wirelen, time_ns, interface = (
            self.records[name].astype(np.int64)
            for name in ("start", "caplen", "wirelen", "time_ns", "ifindex")
        )
        return FrameBatch(
            self.data.data, start, caplen, wirelen, time_ns + offset_ns, interface, linktype=linktype
        )


class HistoryReader:
    """Reads one history, which may be written meanwhile; whatever it holds, only bytes of it are read."""

    def __init__(
        self,
        chunks: mmap.mmap | memoryview,
        heads: mmap.mmap | memoryview,
        *,
        most_records: int = MOST_RECORDS,
        most_bytes: int = MOST_BYTES,
        most_steps: int = MOST_STEPS,
    ) -> None:
        """Read it in this memory.

        Args:
            chunks: An array of `abi.HISTORY_CHUNK`.
            heads: An `abi.HISTORY_HEADS`.
            most_records: Frames to return at most.
            most_bytes: Bytes of frames to return at most.
            most_steps: Records, also of other flows, to look at at most.

        Raises:
            SensorError: An array has another size.
        """
        memory, own_heads = np.frombuffer(chunks, np.uint8), np.frombuffer(heads, np.uint8)
        count, rest = divmod(len(memory), abi.HISTORY_CHUNK_BYTES)
        if not count or rest or len(own_heads) < abi.HISTORY_HEADS.itemsize:
            raise SensorError("the memory of a history has another size; this is a bug: please report it")
        self._memory = memory, own_heads  # the arguments below point into it
        self._found, self._data = np.empty(most_records, FOUND), np.empty(most_bytes, np.uint8)
        self._used, self._end = ctypes.c_uint64(), ctypes.c_uint32()
        self._where = pointer(memory), ctypes.c_uint64(count), pointer(own_heads)
        self._results = (
            ctypes.c_uint64(most_steps),
            pointer(self._found),
            ctypes.c_int64(most_records),
            pointer(self._data),
            ctypes.c_uint64(most_bytes),
            ctypes.byref(self._used),
            ctypes.byref(self._end),
        )

    def collect(self, flow_hash: int, since_ns: int = 0) -> HistoryFrames:
        """Return the frames that have a flow hash; if they are too many, the newest ones.

        Other flows may have the same hash.

        Args:
            flow_hash: 32 bits.
            since_ns: Time of the oldest frame, by the clock of the records, which only runs forward; 0: any.
        """
        records = library.history_collect(
            *self._where, ctypes.c_uint32(flow_hash & 0xFFFFFFFF), ctypes.c_uint64(since_ns), *self._results
        )
        found, data = self._found[:records][::-1].copy(), self._data[: self._used.value].copy()
        return HistoryFrames(found, data, HistoryEnd(self._end.value))


class _Memory(ctypes.Structure):
    """``struct history``."""

    _fields_ = (
        ("chunks", ctypes.c_void_p),
        ("chunk_count", ctypes.c_uint64),
        ("heads", ctypes.c_void_p),
        ("flows", ctypes.c_void_p),
        ("cut_off", ctypes.c_uint64),
        ("idle_ns", ctypes.c_int64),
        ("life_ns", ctypes.c_int64),
    )


class _RememberedFrames(ctypes.Structure):
    """``struct frames``."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("data", "start", "caplen", "wirelen", "time_ns", "ifindex", "flow", "tcp_flags")
    )


class HistoryColumns(NamedTuple):
    """Frames to remember: columns of shape (n,)."""

    data: NDArray[np.uint8]
    """The buffer that the frames are in."""
    start: NDArray[np.int64]
    caplen: NDArray[np.int64]
    wirelen: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    ifindex: NDArray[np.uint32]
    """Any number; it comes back with the frame."""
    flow: NDArray[np.uint64]
    """The lower half is the hash to collect by."""
    tcp_flags: NDArray[np.uint8]


class CheckedFrames:
    """Frames to remember that were checked, as the C code reads them; the columns must not change any more.

    Raises:
        SensorError: A frame is not within the buffer, or the columns differ in length.
    """

    def __init__(self, columns: HistoryColumns) -> None:
        self.count, caplen = len(columns.start), np.minimum(columns.caplen, LONGEST_FRAME)
        is_sound = all(len(column) == self.count for column in columns[1:]) and bool(
            ((columns.start >= 0) & (caplen >= 0) & (columns.start + caplen <= len(columns.data))).all()
        )
        if not is_sound:
            raise SensorError("a frame lies outside of its batch; this is a bug: please report it")
        self._columns = [np.ascontiguousarray(column) for column in columns._replace(caplen=caplen)]
        self.described = _RememberedFrames(*(column.ctypes.data for column in self._columns))


class FileHistory:
    """A history in this process: the frames of capture files, up to a cut-off per flow."""

    def __init__(self, mib: int, flow_kib: int, idle_s: float, life_s: float) -> None:
        """Use ``mib`` MiB for frames, at least one.

        A flow's bytes are counted up to ``flow_kib``, again from 0 when its TCP connection begins, ``idle_s``
        seconds after its last frame and ``life_s`` seconds after its first.
        """
        count = max(mib, 1) * (1 << 20) // abi.HISTORY_CHUNK_BYTES
        # Zeroed; pages are allocated when they are written.
        self._chunks = mmap.mmap(-1, count * abi.HISTORY_CHUNK_BYTES)
        self._heads = mmap.mmap(-1, abi.HISTORY_HEADS.itemsize)
        self._reader = HistoryReader(self._chunks, self._heads)
        self._flows = mmap.mmap(-1, library.history_flows_bytes())
        addresses = (
            np.frombuffer(memory, np.uint8).ctypes.data for memory in (self._chunks, self._heads, self._flows)
        )
        chunks, heads, flows = addresses
        self._memory = _Memory(
            chunks, count, heads, flows, flow_kib << 10, _nanoseconds(idle_s), _nanoseconds(life_s)
        )

    def write(self, frames: CheckedFrames, start: int, end: int) -> None:
        """Remember the frames from position ``start`` to before ``end``, but not those beyond the cut-off."""
        library.history_write(
            ctypes.byref(self._memory),
            ctypes.byref(frames.described),
            ctypes.c_int64(min(max(start, 0), frames.count)),
            ctypes.c_int64(min(end, frames.count)),
        )

    def is_cut_off(self, flow: int) -> bool:
        """Return True if frames of a flow's connection are not remembered because of the cut-off."""
        return bool(library.history_is_cut_off(ctypes.byref(self._memory), ctypes.c_uint64(flow)))

    def collect(self, flow: int) -> HistoryFrames:
        """Return the remembered frames of a flow, and of others with the same lower half of the number."""
        return self._reader.collect(flow)


def _nanoseconds(seconds: float) -> int:
    return int(min(seconds * 1e9, 1 << 62))
