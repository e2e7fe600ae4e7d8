"""The CPU time that a search may take. Runs wherever payloads are searched with RE2."""

from __future__ import annotations

import time

PAYLOAD_NS = 1_200_000
"""CPU time that matching a payload of 64 KiB may cost."""
SHORT_NS = 60_000
"""The same for a short one; the budget grows with the payload. Real attacks need a fifth of it."""
EXTRA_NS = 250_000
"""CPU time that a hundred payloads per second may cost beside: any payload is slow while caches are cold."""


class Budget:
    """CPU time that this thread may spend from now on.

    The clock of CPU time costs a system call, so the wall clock is read first. As long as it has advanced by
    less than half of the budget, less CPU time has passed. The other half is CPU time from then on.
    """

    __slots__ = ("_cpu_end_ns", "_half_ns", "_wall_end_ns", "is_cut")

    def __init__(self, limit_ns: int) -> None:
        """Allow at most ``limit_ns``, and at least half of it."""
        self._half_ns = limit_ns // 2
        self._wall_end_ns = time.monotonic_ns() + self._half_ns
        self._cpu_end_ns = 0
        self.is_cut = False
        """True if something was not searched, or not completely."""

    def is_spent(self) -> bool:
        """Return True if no further search may be started."""
        if self.is_cut:
            return True
        now_ns = time.monotonic_ns()
        if now_ns <= self._wall_end_ns:
            return False
        cpu_ns = time.thread_time_ns()
        self._cpu_end_ns = self._cpu_end_ns or cpu_ns + self._half_ns
        self._wall_end_ns = now_ns + self._cpu_end_ns - cpu_ns
        self.is_cut = cpu_ns > self._cpu_end_ns
        return self.is_cut
