"""Tells a dead worker from a slow one. Runs in the supervisor.

A worker that does its work gives signs of life every few milliseconds of CPU time, and reports after a tenth
of a second. A worker that gets little CPU time is slower, and left alone. One that has stopped uses no CPU
time at all; one that hangs uses it without a sign, or without a report.
"""

from __future__ import annotations

import time

from sensor.live.heartbeat import Sign

MOST_STILL_CHECKS = 5
"""Checks in a row that find neither a sign of life nor CPU time used, until the worker counts as stopped.

Checks are counted, not seconds: if the supervisor was stopped as well, the worker is not to blame.
"""
MOST_SILENT_NS = 3_000_000_000
"""CPU time without a sign of life, until the worker counts as hanging."""
MOST_UNREPORTED_NS = 10_000_000_000
"""CPU time without a report, until the worker counts as hanging, whatever its signs of life say."""
_SCHED_CLOCK = 2  # CPUCLOCK_SCHED, linux/posix-timers.h


class StallDetector:
    """Watches one worker."""

    def __init__(self, pid: int) -> None:
        self._clock = ~pid << 3 | _SCHED_CLOCK  # as clock_getcpuclockid(3) makes it; needs no right
        self._reported: object = None
        self._sign: Sign | None = None
        self._cpu_ns = self._cpu_at_sign_ns = self._cpu_at_report_ns = 0
        self._still_checks = 0

    def check(self, sign: Sign, reported: object, *, has_work: bool) -> str | None:
        """Return what is wrong with the worker, or None; call this at regular intervals.

        ``reported`` changes with each report. A worker without work is never wrong.
        """
        try:
            cpu_ns = time.clock_gettime_ns(self._clock)
        except OSError:  # it has ended
            return None
        if reported != self._reported or not has_work:
            self._cpu_at_report_ns = self._cpu_at_sign_ns = cpu_ns
            self._still_checks = 0
        elif sign != self._sign:
            self._cpu_at_sign_ns = cpu_ns
            self._still_checks = 0
        else:
            self._still_checks = self._still_checks + 1 if cpu_ns == self._cpu_ns else 0
        self._reported, self._sign, self._cpu_ns = reported, sign, cpu_ns
        if self._still_checks >= MOST_STILL_CHECKS:
            return f"stands still: no CPU time used at {self._still_checks} checks"
        silent_ns, unreported_ns = cpu_ns - self._cpu_at_sign_ns, cpu_ns - self._cpu_at_report_ns
        if silent_ns >= MOST_SILENT_NS:
            return f"hangs: {silent_ns / 1e9:.1f} s of CPU time without a sign of life"
        if unreported_ns >= MOST_UNREPORTED_NS:
            return f"hangs: {unreported_ns / 1e9:.1f} s of CPU time without a report"
        return None
