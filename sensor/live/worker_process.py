"""One worker as the supervisor sees it: the process, its rings, and its progress. Runs in the supervisor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from subprocess import TimeoutExpired

from sensor.capture.ring import PerfRing
from sensor.errors import SensorError
from sensor.evidence.block import EvidenceBlock
from sensor.live.report_channel import ReportChannel
from sensor.live.worker import signals_blocked, work
from sensor.pipeline import Pipeline
from sensor.process.child import FunctionProcess
from sensor.rules.engine.flows import FlowTable

EARLY_S = 1.0
"""A worker that dies sooner than this, without a report, died at its start."""
MOST_STALLED_CHECKS = 20
"""Checks in a row that find no progress, until the worker is killed."""


class WorkerProcess:
    """A worker process and its share of the rings."""

    def __init__(
        self,
        number: int,
        rings: Sequence[PerfRing],
        pipeline: Pipeline,
        flows: FlowTable,
        skip_cpu: int | None = None,
    ) -> None:
        """Start the process with the rules of ``pipeline`` and what is known about flows.

        It reports the next batch of ``skip_cpu`` as undecodable.

        Raises:
            SensorError: The kernel starts no more processes.
        """
        self.number = number
        self.rings = rings
        self.flows = flows
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
        arguments = (number, pipeline, flows, rings, self.channel, os.getpid(), skip_cpu)
        try:
            with signals_blocked():
                self.process = FunctionProcess(work, arguments, f"worker {number}")
        except OSError as error:
            raise SensorError(
                f"cannot start a worker: {error.strerror}; check the limits for processes and memory"
            ) from error
        self._started_s = time.monotonic()
        self._tails: list[int] = []
        self._stalled_checks = 0
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
    def died_at_start(self) -> bool:
        """True if the worker, now dead, died early and without a report."""
        return not self.has_reported and time.monotonic() - self._started_s < EARLY_S

    def has_stalled(self) -> bool:
        """Check progress; return True if many checks in a row found work to do and none of it done.

        Checks are counted, not seconds: if the supervisor itself was delayed, the worker is not to blame.
        """
        tails = [ring.tail for ring in self.rings]
        has_work = self.stop_signal is not None or any(ring.waiting_bytes for ring in self.rings)
        self._stalled_checks = self._stalled_checks + 1 if has_work and tails == self._tails else 0
        self._tails = tails
        return self._stalled_checks >= MOST_STALLED_CHECKS

    def condemn(self) -> None:
        """Kill the worker. Its end is seen when its channel ends: the supervisor does not wait for it."""
        self.is_condemned = True
        self.process.kill()

    def reap(self, patience_s: float) -> bool:
        """Release what belongs to a killed worker once it has ended; return False if it has not."""
        try:
            self.exit_code = self.process.wait(patience_s)
        except TimeoutExpired:
            return False
        self.channel.close()
        return True
