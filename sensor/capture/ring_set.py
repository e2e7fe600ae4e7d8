"""The perf rings of all CPUs, or of some. Used in the supervisor, which opens them, and in the workers."""

from __future__ import annotations

import select
from collections.abc import Iterable, Iterator

from sensor.capture.clock import WallClock
from sensor.capture.cpus import online_cpus
from sensor.capture.ring import PerfRing
from sensor.model import FrameBatch, LinkType


class RingSet:
    """The rings that one process reads in turn."""

    def __init__(self, rings: Iterable[PerfRing]) -> None:
        self.rings: list[PerfRing] = []
        self.clock = WallClock()
        self._poll = select.poll()
        self.add(rings)

    @classmethod
    def open(
        cls, size_bytes: int, linktype: int = LinkType.ETHERNET, cpus: Iterable[int] | None = None
    ) -> RingSet:
        """Open a ring for each of the CPUs, or every online one; ``linktype`` is that of the frames.

        Raises:
            KernelError: The kernel refused a ring.
        """
        rings: list[PerfRing] = []
        try:
            for cpu in online_cpus() if cpus is None else cpus:
                rings.append(PerfRing(cpu, size_bytes, linktype))  # noqa: PERF401 - on failure, the rings so far are closed
        except BaseException:
            for ring in rings:
                ring.close()
            raise
        return cls(rings)

    def add(self, rings: Iterable[PerfRing]) -> None:
        """Add further rings."""
        for ring in rings:
            self.rings.append(ring)
            self._poll.register(ring.fd, select.POLLIN)

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

    def fill(self) -> float:
        """Return the used share of the fullest ring, 0 to 1."""
        return max(ring.fill() for ring in self.rings)

    def waiting(self) -> int:
        """Count the unread frames of all rings, see `PerfRing.waiting`."""
        return sum(ring.waiting() for ring in self.rings)

    def close(self) -> None:
        """Close all rings."""
        for ring in self.rings:
            ring.close()
