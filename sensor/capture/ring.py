"""The per-CPU perf rings, mapped and walked in batches; runs where frames are read.

A ring is a page of control and a power of two of data pages (linux/perf_event.h). The
kernel moves ``data_head``; whoever reads moves ``data_tail`` once it needs the bytes no
longer. One `PerfRing.read` takes ``data_head`` once, walks at most `BATCH_BYTES` of
records, and the batch stands in the ring itself, uncopied, until `PerfRing.release`.

Order of loads and stores: ``data_head`` must be read before the data behind it, ``data_tail``
stored after. x86-64 keeps that order by itself. On other machines a membarrier(2) between
the two stands in for the barrier that Python lacks; those machines are not tested.
"""

from __future__ import annotations

import mmap
import os
import select
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import numpy as np

from sensor import abi
from sensor.capture.clock import WallClock
from sensor.capture.syscalls import (
    PERF_ATTR_WATERMARK,
    PERF_COUNT_SW_BPF_OUTPUT,
    PERF_SAMPLE_RAW,
    PERF_TYPE_SOFTWARE,
    PerfEventAttr,
    memory_barrier,
    perf_event_open,
)
from sensor.errors import KernelError
from sensor.model import FrameBatch

BATCH_BYTES = 1 << 20
"""Most bytes of records in a batch: what timers, status and signals may have to wait behind."""

_HEAD, _TAIL = 1024 // 8, 1032 // 8
_PERF_EVENT_IOC_ENABLE = 0x2400
_RECORD_SAMPLE = 9
_RECORD_HEADER = 8
_RAW_HEADER = _RECORD_HEADER + 4  # then u32, the size of what the program submitted
_FRAME = _RAW_HEADER + abi.FRAME_META.itemsize
_META_OFFSETS = np.arange(_RAW_HEADER, _FRAME)


class PerfRing:
    """The ring of one CPU."""

    def __init__(self, cpu: int, size_bytes: int) -> None:
        """Open and map it; ``size_bytes`` is a power of two of pages.

        Raises:
            KernelError: The kernel refused, most often for want of lockable memory.
        """
        self.cpu = cpu
        self._size = size_bytes
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
            self.fd = perf_event_open(attr, cpu)
        except OSError as error:
            raise KernelError(f"CPU {cpu}: the kernel refused a perf ring: {error.strerror}") from error
        try:
            self._map = mmap.mmap(self.fd, mmap.PAGESIZE + size_bytes)
        except OSError as error:
            os.close(self.fd)
            raise KernelError(
                f"CPU {cpu}: a ring of {size_bytes >> 20} MiB cannot be mapped: {error.strerror}; "
                "make it smaller with --ring-mib, or raise the memlock limit: ulimit -l unlimited"
            ) from error
        ioctl(self.fd, _PERF_EVENT_IOC_ENABLE, 0)
        self._control = memoryview(self._map)[: mmap.PAGESIZE].cast("Q")
        self._data = memoryview(self._map)[mmap.PAGESIZE :]
        self._words = self._data.cast("Q")
        self._next_tail = 0

    def read(self, clock: WallClock) -> FrameBatch | None:
        """The oldest frames not yet read, or None when there are none. `release` before the next read."""
        head = self._control[_HEAD]
        tail = self._control[_TAIL]
        memory_barrier()
        if head == tail:
            return None
        first = tail & (self._size - 1)
        records, end = self._walk(first, min(first + (head - tail), self._size, first + BATCH_BYTES))
        if not records and end == first:
            return self._read_over_the_edge(tail, first, clock)
        self._next_tail = tail + (end - first)
        return _frames(self._data, records, clock)

    def release(self) -> None:
        """Give the last batch's bytes back to the kernel; its frames are gone."""
        memory_barrier()
        self._control[_TAIL] = self._next_tail

    def waiting(self) -> int:
        """Frames submitted and not yet read. Walks them: meant for when nothing is submitted any more."""
        position, head = self._control[_TAIL], self._control[_HEAD]
        samples = 0
        while position < head:
            word = self._words[(position & (self._size - 1)) >> 3]
            samples += word & 0xFFFFFFFF == _RECORD_SAMPLE
            position += word >> 48
        return samples

    def close(self) -> None:
        """Close the event; the mapping goes with the last batch that stands in it."""
        os.close(self.fd)

    def _walk(self, position: int, limit: int) -> tuple[list[int], int]:
        """Offsets of the samples between two offsets, and where the first record that does not fit starts."""
        words = self._words
        records = []
        while position < limit:
            word = words[position >> 3]  # u32 type, u16 misc, u16 size
            end = position + (word >> 48)
            if end > self._size:
                break
            if word & 0xFFFFFFFF == _RECORD_SAMPLE:
                records.append(position)
            position = end
        return records, position

    def _read_over_the_edge(self, tail: int, first: int, clock: WallClock) -> FrameBatch:
        """The one record that begins at the ring's end and goes on at its start, copied together."""
        size = self._words[first >> 3] >> 48
        record = bytes(self._data[first:]) + bytes(self._data[: first + size - self._size])
        self._next_tail = tail + size
        is_sample = record[0] == _RECORD_SAMPLE
        return _frames(memoryview(record), [0] if is_sample else [], clock)


def _frames(buffer: memoryview, records: list[int], clock: WallClock) -> FrameBatch:
    start = np.array(records, np.int64)
    data = np.frombuffer(buffer, np.uint8)
    meta = data[start[:, None] + _META_OFFSETS].view(abi.FRAME_META)[:, 0]
    return FrameBatch(
        buffer=buffer,
        start=start + _FRAME,
        caplen=meta["caplen"].astype(np.int64),
        wirelen=meta["wirelen"].astype(np.int64),
        timestamp_ns=meta["ktime_ns"].astype(np.int64) + clock.offset_ns,
        interface=meta["ifindex"].astype(np.int64),
    )


class RingSet:
    """The rings of all CPUs, read in turn."""

    def __init__(self, size_bytes: int) -> None:
        """Open a ring on every CPU that is online.

        Raises:
            KernelError: A ring was refused.
        """
        self.rings: list[PerfRing] = []
        self.clock = WallClock()
        self._poll = select.poll()
        try:
            for cpu in _online_cpus():
                self.rings.append(PerfRing(cpu, size_bytes))
        except BaseException:
            self.close()
            raise
        for ring in self.rings:
            self._poll.register(ring.fd, select.POLLIN)

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


def _online_cpus() -> list[int]:
    """CPU numbers from a list such as ``0-3,5`` (sysfs, cputopology)."""
    cpus: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        low, _, high = part.partition("-")
        cpus.extend(range(int(low), int(high or low) + 1))
    return cpus
