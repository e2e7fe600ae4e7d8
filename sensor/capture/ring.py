"""Mapped perf rings to batches of frames; the rings are opened in the supervisor and read in the workers.

The kernel writes records at ``data_head``, we read at ``data_tail``; ``data_head`` is loaded before
the data behind it, and ``data_tail`` stored after (linux/perf_event.h), by the C library's
acquire and release. Rings are per CPU: there is no order between them.
"""

from __future__ import annotations

import mmap
import os
import select
from collections.abc import Iterable, Iterator
from fcntl import ioctl

import numpy as np
from numpy.typing import NDArray

from sensor import abi, native
from sensor.capture.clock import WallClock
from sensor.capture.cpus import online_cpus
from sensor.capture.kernel_structs import (
    PERF_ATTR_WATERMARK,
    PERF_COUNT_SW_BPF_OUTPUT,
    PERF_SAMPLE_RAW,
    PERF_TYPE_SOFTWARE,
    PerfEventAttr,
)
from sensor.capture.syscalls import perf_event_open
from sensor.errors import KernelError
from sensor.model import FrameBatch

BATCH_BYTES = 1 << 22
"""Most bytes of records in a batch: what reload, clock and signals may have to wait behind. Every batch
has a cost of its own: a frame of 4 MiB costs four fifths of one of 1 MiB."""
MOST_OF_RING = 4
"""A batch is at most this part of the ring: the kernel writes on while it is worked on."""
BATCH_FRAMES = 1 << 13

_HEAD, _TAIL = 1024, 1032
_PERF_EVENT_IOC_ENABLE = 0x2400
_RECORD_SAMPLE = 9
_RAW_HEADER = 12  # struct perf_event_header, then u32, the size of what the program submitted


class PerfRing:
    """The ring of one CPU: an event, and this process's mapping of its buffer.

    The buffer lives as long as any process maps it. A mapping is not inherited: a child maps the
    event anew (`mapped_anew`) and must not let go of what it got from its parent, or it would
    unmap whatever stands at that address by then.
    """

    def __init__(self, cpu: int, size_bytes: int) -> None:
        """Open and map it; ``size_bytes`` is a power of two of pages.

        Raises:
            KernelError: The kernel refused, most often for want of lockable memory.
        """
        attr = PerfEventAttr(
            type=PERF_TYPE_SOFTWARE,
            config=PERF_COUNT_SW_BPF_OUTPUT,
            sample_period=1,
            sample_type=PERF_SAMPLE_RAW,
            flags=PERF_ATTR_WATERMARK,
            wakeup_watermark=size_bytes // 8,
        )
        attr.size = 112
        try:
            fd = perf_event_open(attr, cpu)
        except OSError as error:
            raise KernelError(f"CPU {cpu}: the kernel refused a perf ring: {error.strerror}") from error
        try:
            self._map_event(cpu, fd, size_bytes)
        except KernelError:
            os.close(fd)
            raise
        ioctl(fd, _PERF_EVENT_IOC_ENABLE, 0)

    def mapped_anew(self) -> PerfRing:
        """Return the same ring for a child process that was forked since.

        Raises:
            KernelError: The kernel refused.
        """
        ring = PerfRing.__new__(PerfRing)
        ring._map_event(self.cpu, self.fd, self._size)
        return ring

    def _map_event(self, cpu: int, fd: int, size_bytes: int) -> None:
        self.cpu, self.fd, self._size = cpu, fd, size_bytes
        self._batch_bytes = min(BATCH_BYTES, size_bytes // MOST_OF_RING)
        try:
            self._map = mmap.mmap(fd, mmap.PAGESIZE + size_bytes)
        except OSError as error:
            raise KernelError(
                f"CPU {cpu}: a ring of {size_bytes >> 20} MiB cannot be mapped: {error.strerror}; "
                "make it smaller with --ring-mib, or raise the memlock limit: ulimit -l unlimited"
            ) from error
        whole = memoryview(self._map)
        self._data = whole[mmap.PAGESIZE :]
        self._head_address = native.address(whole) + _HEAD
        self._tail_address = native.address(whole) + _TAIL
        self._data_address = native.address(self._data)
        self.next_tail = self.tail
        """Where the tail will be once the batch that was read last is released."""

    @property
    def tail(self) -> int:
        """Bytes that have been given back to the kernel since the ring was opened."""
        return native.load_acquire(self._tail_address)

    def read(self, clock: WallClock) -> FrameBatch | None:
        """The oldest frames not yet read, or None when there are none. `release` before the next read."""
        head = native.load_acquire(self._head_address)
        tail = self.tail
        if head == tail:
            return None
        first = tail & (self._size - 1)
        limit = min(first + (head - tail), self._size, first + self._batch_bytes)
        raw, meta, end = native.walk_records(
            self._data_address, first, limit, self._size, abi.FRAME_META, BATCH_FRAMES
        )
        if end == first:
            return self._read_over_the_edge(tail, first, clock)
        self.next_tail = tail + (end - first)
        return _frames(self._data, raw, meta, clock)

    def release(self) -> None:
        """Give the last batch's bytes back to the kernel; its frames are gone."""
        native.store_release(self._tail_address, self.next_tail)

    def release_up_to(self, tail: int) -> None:
        """Give back what another process has read, and told so, but not released."""
        if self.tail < tail:
            native.store_release(self._tail_address, tail)

    def waiting(self) -> int:
        """Frames submitted and not yet read. Walks them: meant for when nothing is submitted any more."""
        position, head = self.tail, native.load_acquire(self._head_address)
        words = self._data.cast("Q")
        samples = 0
        while position < head:
            word = words[(position & (self._size - 1)) >> 3]  # u32 type, u16 misc, u16 size
            samples += word & 0xFFFFFFFF == _RECORD_SAMPLE
            position += word >> 48
        return samples

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have not been given back to the kernel."""
        return native.load_acquire(self._head_address) - self.tail

    def fill(self) -> float:
        """The share of the ring that is taken, 0 to 1."""
        return self.waiting_bytes / self._size

    @property
    def size_bytes(self) -> int:
        """Of its buffer."""
        return self._size

    def close(self) -> None:
        """Close the event; the mapping goes with the last batch that stands in it."""
        os.close(self.fd)

    def _read_over_the_edge(self, tail: int, first: int, clock: WallClock) -> FrameBatch:
        """The one record that begins at the ring's end and goes on at its start, copied together."""
        size = int.from_bytes(self._data[first + 6 : first + 8], "little")
        record = memoryview(bytes(self._data[first:]) + bytes(self._data[: first + size - self._size]))
        self.next_tail = tail + size
        raw, meta, _ = native.walk_records(native.address(record), 0, size, size, abi.FRAME_META, 1)
        return _frames(record, raw, meta, clock)


def _frames(
    buffer: memoryview, raw: NDArray[np.int64], meta: NDArray[np.void], clock: WallClock
) -> FrameBatch:
    return FrameBatch(
        buffer=buffer,
        start=raw + abi.FRAME_META.itemsize,
        caplen=meta["caplen"].astype(np.int64),
        wirelen=meta["wirelen"].astype(np.int64),
        timestamp_ns=meta["ktime_ns"].astype(np.int64) + clock.offset_ns,
        interface=meta["ifindex"].astype(np.int64),
        flow_packets=meta["flow_packets"].astype(np.int64),
        flow_born_jiffies=meta["flow_born_jiffies"].astype(np.int64),
    )


class RingSet:
    """The rings that one process reads, in turn."""

    def __init__(self, rings: Iterable[PerfRing]) -> None:
        self.rings = list(rings)
        self.clock = WallClock()
        self._poll = select.poll()
        for ring in self.rings:
            self._poll.register(ring.fd, select.POLLIN)

    @classmethod
    def open(cls, size_bytes: int) -> RingSet:
        """Open a ring on every CPU that is online.

        Raises:
            KernelError: A ring was refused.
        """
        rings: list[PerfRing] = []
        try:
            for cpu in online_cpus():
                rings.append(PerfRing(cpu, size_bytes))  # noqa: PERF401 - those before are closed on failure
        except BaseException:
            for ring in rings:
                ring.close()
            raise
        return cls(rings)

    def batches(self) -> Iterator[FrameBatch]:
        """One batch of each ring that has any; each is valid until the next is asked for."""
        for ring in self.rings:
            batch = ring.read(self.clock)
            if batch is None:
                continue
            if len(batch):
                yield batch
            ring.release()

    def wait(self, timeout_ms: int) -> None:
        """Return when a ring is an eighth full, or after the time-out."""
        self._poll.poll(timeout_ms)

    def waiting(self) -> int:
        """Frames in all rings; see `PerfRing.waiting`."""
        return sum(ring.waiting() for ring in self.rings)

    def close(self) -> None:
        """Close all rings."""
        for ring in self.rings:
            ring.close()
