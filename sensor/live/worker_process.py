"""One worker as the supervisor sees it: the process, its rings, and its progress. Runs in the supervisor."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from subprocess import TimeoutExpired

from sensor.capture.ring import PerfRing
from sensor.errors import SensorError
from sensor.evidence.block import EvidenceBlock
from sensor.live.heartbeat import Heartbeat
from sensor.live.report_channel import ReportChannel
from sensor.live.stall_detector import StallDetector
from sensor.live.worker import signals_blocked, work
from sensor.native.source_table import SourceTable
from sensor.pipeline import Pipeline
from sensor.process.child import FunctionProcess
from sensor.rules.engine.flows import FlowTable

EARLY_S = 1.0
"""A worker that dies sooner than this, without a report, may have died at its start."""
MOST_CHECKS_TO_DIE = 2
"""Checks after which a killed worker that has not ended is held by the kernel."""

log = logging.getLogger(__name__)


class WorkerProcess:
    """A worker process and its share of the rings."""

    def __init__(
        self,
        number: int,
        rings: Sequence[PerfRing],
        pipeline: Pipeline,
        flows: FlowTable,
        sources: SourceTable,
        suspects: Mapping[int, int],
    ) -> None:
        """Start the process with the rules of ``pipeline`` and what is known about flows and sources.

        ``suspects`` says, by CPU, up to which position in a ring workers may die of the frames.

        Raises:
            SensorError: The kernel starts no more processes.
        """
        self.number = number
        self.rings = tuple(rings)
        self.flows, self.sources = flows, sources
        self.stop_signal: signal.Signals | None = None
        """`DRAIN` or `HAND_OVER` once the worker was asked to stop."""
        self.has_started = False
        self.has_reported = False
        self.has_stopped = False
        """True if it has stopped because it was asked to; False if it died."""
        self.pipeline = pipeline
        """Its rules are those that the worker's reports refer to."""
        self.is_condemned = False
        """True if it was killed, and its messages do not count any more."""
        self.parts: list[EvidenceBlock] = []
        """Evidence of a batch that it has not reported to the end."""
        self.reported_tails = {ring.cpu: ring.tail for ring in rings}
        """By CPU: tail of its ring after the last batch that was reported."""
        self.exit_code: int | None = None
        """Set by `reap`."""
        self.channel = ReportChannel()
        self.heartbeat = Heartbeat()
        shared = self.channel, self.heartbeat
        arguments = (number, pipeline, flows, sources, rings, *shared, os.getpid(), suspects)
        try:
            with signals_blocked():
                self.process = FunctionProcess(work, arguments, f"worker {number}")
        except OSError as error:
            raise SensorError(
                f"cannot start a worker: {error.strerror}; check the limits for processes and memory"
            ) from error
        self._started_s = time.monotonic()
        self._stall_detector = StallDetector(self.process.pid)
        self._is_killed = False
        self._checks_since_kill = 0
        self.channel.enter_supervisor()

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self.process.poll() is None

    def stop(self, stop_signal: signal.Signals) -> None:
        """Ask the worker to stop: `DRAIN` or `HAND_OVER`."""
        self.stop_signal = stop_signal
        if self.is_alive:
            os.kill(self.process.pid, stop_signal)

    @property
    def died_early(self) -> bool:
        """True if the worker, now dead, died soon and without a report.

        One that had started and was killed by a signal that no fault of a program raises does not count.
        """
        if self.has_reported or time.monotonic() - self._started_s >= EARLY_S:
            return False
        return not self.has_started or self.exit_code != -signal.SIGKILL

    def check(self) -> bool:
        """Kill the worker if it stands still or hangs; call this at regular intervals.

        Returns True if it was killed earlier and does not end: the kernel holds it. It runs no instruction
        of its own any more, so that its rings have no reader.
        """
        if self._is_killed:
            self._checks_since_kill += 1
            return self._checks_since_kill >= MOST_CHECKS_TO_DIE
        is_behind = any(self.reported_tails[ring.cpu] != ring.head for ring in self.rings)
        reported = *self.reported_tails.values(), len(self.parts)
        has_work = is_behind or self.stop_signal is not None
        stall = self._stall_detector.check(self.heartbeat.sign(), reported, has_work=has_work)
        if stall:
            log.error("worker %d %s; it is killed", self.number, stall)
            self._kill()
        return False

    def condemn(self) -> None:
        """Kill the worker. Its end is seen when its channel ends: the supervisor does not wait for it."""
        self.is_condemned = True
        self._kill()

    def _kill(self) -> None:
        self._is_killed = True
        self.process.kill()

    def reap(self, patience_s: float) -> bool:
        """Release what belongs to a killed worker once it has ended; return False if it has not."""
        try:
            self.exit_code = self.process.wait(patience_s)
        except TimeoutExpired:
            return False
        self.channel.close()
        return True
