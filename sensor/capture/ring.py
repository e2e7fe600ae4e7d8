"""Perf rings: the memory in which the kernel submits frames, one ring per CPU.

The supervisor opens the rings, and the workers read them.

The kernel writes records at ``data_head``, and we read them at ``data_tail``. ``data_head`` is loaded
before the records are read, and ``data_tail`` is stored after that (linux/perf_event.h), with acquire and
release in C. There is no order between frames of different rings.
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
"""Largest number of record bytes in a batch. Reloads, the clock and signals may have to wait for a batch. But
each batch has a fixed cost: a frame in a batch of 4 MiB costs four fifths of one in a batch of 1 MiB."""
BATCHES_PER_RING = 4
"""A batch takes at most this fraction of a ring, so that the kernel can go on writing meanwhile."""
BATCH_FRAMES = 1 << 13
"""Largest number of frames in a batch."""

_HEAD, _TAIL = 1024, 1032
_PERF_EVENT_IOC_ENABLE = 0x2400
_RECORD_SAMPLE = 9
_RAW_HEADER = 12  # struct perf_event_header, and the size of the data as a u32


class PerfRing:
    """The ring of one CPU: a perf event, and this process's mapping of its buffer.

    The buffer lives as long as any process maps it. A child process does not inherit the mapping: it must
    map the event again (`remap`), and must keep the object it inherited, because deleting that would unmap
    whatever is at its address by then.
    """

    def __init__(self, cpu: int, size_bytes: int) -> None:
        """Open and map a ring.

        Args:
            cpu: CPU whose frames it gets.
            size_bytes: Size of the buffer: pages, and their number a power of two.

        Raises:
            KernelError: The kernel refused, usually because too little memory may be locked.
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

    def remap(self) -> PerfRing:
        """Return this ring, mapped again in a child process.

        Raises:
            KernelError: The kernel refused.
        """
        ring = PerfRing.__new__(PerfRing)
        ring._map_event(self.cpu, self.fd, self._size)
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
        self.next_tail = self.tail
        """The tail once the last batch is released."""

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

    def read(self, clock: WallClock) -> FrameBatch | None:
        """Return the oldest unread frames, or None if there are none. Call `release` before the next read."""
        head = native.load_acquire(self._head_address)
        tail = self.tail
        if head <= tail:
            return None
        first = tail & (self._size - 1)
        limit = min(first + (head - tail), self._size, first + self._batch_bytes)
        raw, meta, end = native.walk_records(
            self._data_address, first, limit, self._size, abi.FRAME_META, BATCH_FRAMES
        )
        if end == first:
            return self._read_wrapped(tail, first, clock)
        self.next_tail = tail + (end - first)
        return _frames(self._data, raw, meta, clock)

    def release(self) -> None:
        """Give the last batch back to the kernel. Its frames must not be used any more."""
        native.store_release(self._tail_address, self.next_tail)

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
            position += word >> 48
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
        os.close(self.fd)

    def _read_wrapped(self, tail: int, first: int, clock: WallClock) -> FrameBatch:
        """Return the record that wraps around from the end of the ring to its start, as a copy."""
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
    """The rings that one process reads in turn."""

    def __init__(self, rings: Iterable[PerfRing]) -> None:
        self.rings = list(rings)
        self.clock = WallClock()
        self._poll = select.poll()
        for ring in self.rings:
            self._poll.register(ring.fd, select.POLLIN)

    @classmethod
    def open(cls, size_bytes: int) -> RingSet:
        """Open a ring for every online CPU.

        Raises:
            KernelError: The kernel refused a ring.
        """
        rings: list[PerfRing] = []
        try:
            for cpu in online_cpus():
                rings.append(PerfRing(cpu, size_bytes))  # noqa: PERF401 - on failure, the rings so far are closed
        except BaseException:
            for ring in rings:
                ring.close()
            raise
        return cls(rings)

    def batches(self) -> Iterator[FrameBatch]:
        """Yield one batch of each ring that has frames. A batch is valid until the next one is requested."""
        for ring in self.rings:
            batch = ring.read(self.clock)
            if batch is None:
                continue
            if len(batch):
                yield batch
            ring.release()

    def wait(self, timeout_ms: int) -> None:
        """Wait until a ring is an eighth full, or the timeout has passed."""
        self._poll.poll(timeout_ms)

    def waiting(self) -> int:
        """Count the unread frames of all rings, see `PerfRing.waiting`."""
        return sum(ring.waiting() for ring in self.rings)

    def close(self) -> None:
        """Close all rings."""
        for ring in self.rings:
            ring.close()
