"""Perf rings: the memory in which the kernel submits frames, one ring per CPU.

The supervisor opens the rings, and the workers read them.

The kernel writes records at ``data_head``, and we read them at ``data_tail``. ``data_head`` is loaded
before the records are read, and ``data_tail`` is stored after that (linux/perf_event.h), with acquire and
release in C. There is no order between frames of different rings.
"""

from __future__ import annotations

import mmap
import os
from fcntl import ioctl
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor import abi, native
from sensor.capture.clock import WallClock
from sensor.capture.kernel_structs import (
    PERF_ATTR_WATERMARK,
    PERF_COUNT_SW_BPF_OUTPUT,
    PERF_SAMPLE_RAW,
    PERF_TYPE_SOFTWARE,
    PerfEventAttr,
)
from sensor.capture.syscalls import perf_event_open
from sensor.errors import KernelError
from sensor.model import FrameBatch, LinkType

BATCH_BYTES = 1 << 22
"""Largest number of record bytes in a batch. Reloads, the clock and signals may have to wait for a batch. But
each batch has a fixed cost: a frame in a batch of 4 MiB costs four fifths of one in a batch of 1 MiB."""
BATCHES_PER_RING = 4
"""A batch takes at most this fraction of a ring, so that the kernel can go on writing meanwhile."""
BATCH_FRAMES = 1 << 13
"""Largest number of frames in a batch."""

RECORD_ALIGNMENT = 8
"""Records start at multiples of this."""

_HEAD, _TAIL = 1024, 1032
_PERF_EVENT_IOC_ENABLE, _PERF_EVENT_IOC_SET_OUTPUT = 0x2400, 0x2405
_RECORD_SAMPLE = 9
_RAW_HEADER = 12  # struct perf_event_header, and the size of the data as a u32


class PerfRing:
    """The ring of one CPU: a perf event, and this process's mapping of its buffer.

    The buffer lives as long as any process maps it. A child process does not inherit the mapping: it must
    map the event again (`remap`), and must keep the object it inherited, because deleting that would unmap
    whatever is at its address by then.
    """

    def __init__(self, cpu: int, size_bytes: int, linktype: int = LinkType.ETHERNET) -> None:
        """Open and map a ring.

        Args:
            cpu: CPU whose frames it gets.
            size_bytes: Size of the buffer: pages, and their number a power of two.
            linktype: Link type of the frames.

        Raises:
            KernelError: The kernel refused, usually because too little memory may be locked.
        """
        try:
            fd = _open_event(cpu, size_bytes)
        except OSError as error:
            raise KernelError(f"CPU {cpu}: the kernel refused a perf ring: {error.strerror}") from error
        self.linktype = linktype
        self.event_fd = fd
        """The event that fills the buffer: that of ``fd``, or its successor."""
        try:
            self._map_event(cpu, fd, size_bytes)
        except KernelError:
            os.close(fd)
            raise
        ioctl(fd, _PERF_EVENT_IOC_ENABLE, 0)

    def renew_event(self) -> None:
        """Let another perf event fill the buffer, because one that was on a CPU that went down is over.

        Raises:
            OSError: The kernel refused; ``ENODEV`` if the CPU is down.
        """
        fd = _open_event(self.cpu, self._size)
        try:
            ioctl(fd, _PERF_EVENT_IOC_SET_OUTPUT, self.fd)
            ioctl(fd, _PERF_EVENT_IOC_ENABLE, 0)
        except OSError:
            os.close(fd)
            raise
        self._close_successor()
        self.event_fd = fd

    def remap(self) -> PerfRing:
        """Return this ring, mapped again in a child process.

        Raises:
            KernelError: The kernel refused.
        """
        ring = PerfRing.__new__(PerfRing)
        ring._map_event(self.cpu, self.fd, self._size)
        ring.linktype, ring.event_fd = self.linktype, self.event_fd
        return ring

    def _map_event(self, cpu: int, fd: int, size_bytes: int) -> None:
        self.cpu, self.fd, self._size = cpu, fd, size_bytes
        self._batch_bytes = min(BATCH_BYTES, size_bytes // BATCHES_PER_RING)
        try:
            self._map = mmap.mmap(fd, mmap.PAGESIZE + size_bytes)
        except OSError as error:
            raise KernelError(
                f"CPU {cpu}: a ring of {size_bytes >> 20} MiB cannot be mapped: {error.strerror}; "
                "use a smaller one (--ring-mib), or raise the memlock limit: ulimit -l unlimited"
            ) from error
        whole = memoryview(self._map)
        self._data = whole[mmap.PAGESIZE :]
        self._head_address = native.address(whole) + _HEAD
        self._tail_address = native.address(whole) + _TAIL
        self._data_address = native.address(self._data)
        self._batch: _Unread | None = None

    @property
    def address(self) -> int:
        """Address of the mapping in this process."""
        return self._head_address - _HEAD

    @property
    def head(self) -> int:
        """Number of bytes that the kernel has written since the ring was opened."""
        return native.load_acquire(self._head_address)

    @property
    def tail(self) -> int:
        """Number of bytes given back to the kernel since the ring was opened."""
        return native.load_acquire(self._tail_address)

    def read(self, clock: WallClock, stop: int | None = None) -> FrameBatch | None:
        """Return the oldest unread frames, or None if there are none. Call `release` before the next read.

        With ``stop``, no frame is read that starts at that position of the tail or later.

        Raises:
            KernelError: The ring is damaged.
        """
        self._batch = unread = self._unread_until(stop)
        return _frames(unread, clock, self.linktype, self.cpu) if unread else None

    def tail_after(self, frames: int) -> int:
        """Return the tail once the first ``frames`` frames of the last batch are released."""
        return self._batch.tail_after(frames) if self._batch else self.tail

    def release(self, frames: int | None = None) -> None:
        """Give the first ``frames`` frames of the last batch back to the kernel, or all of them."""
        if self._batch:
            tail = self._batch.end if frames is None else self._batch.tail_after(frames)
            native.store_release(self._tail_address, tail)

    def halfway(self, end: int) -> int:
        """Return the position after half of the unread frames before ``end``, or after the only one.

        Only frames that one batch can hold count.

        Raises:
            KernelError: The ring is damaged.
        """
        unread = self._unread_until(end)
        return unread.tail_after(max(1, len(unread.raw) // 2)) if unread else end

    def end_of_frame(self, place: int) -> int:
        """Return the position after the unread frame that has its bytes at offset ``place`` in its buffer.

        If there is none, return the end of the largest batch that can be read.

        Raises:
            KernelError: The ring is damaged.
        """
        unread = self._unread_until(None)
        if not unread:
            return self.tail
        frames = int(np.searchsorted(unread.raw, place, side="right"))
        return unread.tail_after(frames) if frames else unread.end

    def resume_at(self, tail: int) -> None:
        """Continue after the last batch that a reader, which is gone, has reported.

        It may have released less than it reported, or more. What the kernel has overwritten since is skipped.
        """
        head = self.head
        native.store_release(self._tail_address, tail if head - tail <= self._size else head)

    def waiting(self) -> int:
        """Count the unread frames. This walks all records; call it when nothing is submitted any more."""
        position, head = self.tail, native.load_acquire(self._head_address)
        words = self._data.cast("Q")
        samples = 0
        while position < head:
            word = words[(position & (self._size - 1)) >> 3]  # u32 type, u16 misc, u16 size
            samples += word & 0xFFFFFFFF == _RECORD_SAMPLE
            position += max(word >> 48, RECORD_ALIGNMENT)  # a worker may have written there, too
        return samples

    @property
    def waiting_bytes(self) -> int:
        """Number of bytes not yet given back to the kernel."""
        return native.load_acquire(self._head_address) - self.tail

    def fill(self) -> float:
        """Return the used share of the ring, 0 to 1."""
        return self.waiting_bytes / self._size

    @property
    def size_bytes(self) -> int:
        """Size of the buffer."""
        return self._size

    def close(self) -> None:
        """Close the event. The mapping ends with the last batch that refers to it."""
        self._close_successor()
        os.close(self.fd)

    def _close_successor(self) -> None:
        if self.event_fd != self.fd:
            os.close(self.event_fd)

    def _unread_until(self, stop: int | None) -> _Unread | None:
        """Walk the records that one batch can hold, up to ``stop``; return None if there are none."""
        head = native.load_acquire(self._head_address)
        tail = self.tail
        written = head - tail
        wanted = written if stop is None else min(written, stop - tail)
        if wanted <= 0:
            return None
        first = tail & (self._size - 1)
        whole = min(self._size, first + written)  # no record reaches further
        limit = min(whole, first + wanted, first + self._batch_bytes)
        raw, meta, end = native.walk_records(
            self._data_address, first, limit, whole, abi.FRAME_META, BATCH_FRAMES
        )
        if end > first:
            return _Unread(self._data, raw, meta, tail - first, tail - first + end)
        record = self._wrapped_record(first, written)
        raw, meta, end = native.walk_records(
            native.address(record), 0, len(record), len(record), abi.FRAME_META, 1
        )
        if not end:
            raise self._damaged()
        return _Unread(record, raw, meta, tail, tail + end)

    def _wrapped_record(self, first: int, most_bytes: int) -> memoryview:
        """Return a copy of the record at ``first``, which continues at the start of the ring."""
        size = int.from_bytes(self._data[first + 6 : first + 8], "little")
        if size % RECORD_ALIGNMENT or first + size <= self._size or size > most_bytes:
            raise self._damaged()
        return memoryview(bytes(self._data[first:]) + bytes(self._data[: first + size - self._size]))

    def _damaged(self) -> KernelError:
        return KernelError(f"the ring of CPU {self.cpu} is damaged at {self.tail}")


class _Unread(NamedTuple):
    """Unread records that lie in one buffer."""

    buffer: memoryview
    raw: NDArray[np.int64]
    """Offset of each frame's metadata in the buffer."""
    meta: NDArray[np.void]
    shift: int
    """The position of the ring's tail that offset 0 stands for."""
    end: int
    """The tail once all of them are released."""

    def tail_after(self, frames: int) -> int:
        """Return the tail once the first ``frames`` frames are released."""
        return self.shift + int(self.raw[frames]) - _RAW_HEADER if frames < len(self.raw) else self.end


def _open_event(cpu: int, size_bytes: int) -> int:
    """Open a perf event for the output of the program on a CPU, and return its file descriptor."""
    attr = PerfEventAttr(
        type=PERF_TYPE_SOFTWARE,
        config=PERF_COUNT_SW_BPF_OUTPUT,
        sample_period=1,
        sample_type=PERF_SAMPLE_RAW,
        flags=PERF_ATTR_WATERMARK,
        wakeup_watermark=size_bytes // 8,
    )
    attr.size = 112
    return perf_event_open(attr, cpu)


def _frames(unread: _Unread, clock: WallClock, linktype: int, cpu: int) -> FrameBatch:
    meta = unread.meta
    is_followed = meta["is_followed"] != 0
    return FrameBatch(
        buffer=unread.buffer,
        start=unread.raw + abi.FRAME_META.itemsize,
        caplen=meta["caplen"].astype(np.int64),
        wirelen=meta["wirelen"].astype(np.int64),
        timestamp_ns=meta["ktime_ns"].astype(np.int64) + clock.offset_ns,
        interface=meta["ifindex"].astype(np.int64),
        linktype=linktype,
        flow_packets=meta["flow_packets"].astype(np.int64),
        flow_born_jiffies=meta["flow_born_jiffies"].astype(np.int64),
        is_followed=is_followed if is_followed.any() else None,
        ktime_ns=meta["ktime_ns"],
        cpu=cpu,
        ring_origin=unread.shift,
    )
