"""One worker as the supervisor sees it: the process, its rings, and its progress. Runs in the supervisor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from sensor.capture.ring import PerfRing
from sensor.errors import SensorError
from sensor.live.worker import Stopped, signals_blocked, work
from sensor.pipeline import Pipeline
from sensor.process.child import FORK, FunctionProcess, finish
from sensor.rules.engine.flows import FlowTable

EARLY_S = 1.0
"""A worker that dies sooner than this, without a report, died at its start."""
MOST_STALLED_CHECKS = 20
"""Checks in a row that find no progress, until the worker is killed."""
_JOIN_S = 5.0


class WorkerProcess:
    """A worker process and its share of the rings."""

    def __init__(self, number: int, rings: Sequence[PerfRing], pipeline: Pipeline, flows: FlowTable) -> None:
        """Start the process with the rules of ``pipeline`` and what is known about flows.

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
        self.stopped: Stopped | None = None
        """Its last message; None if it died."""
        self.exit_code: int | None = None
        """Set by `join`."""
        self.connection, far_end = FORK.Pipe(duplex=False)
        arguments = (number, pipeline, flows, rings, far_end, os.getpid())
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
        far_end.close()  # so that reading from `connection` ends when the worker does

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

    def join(self) -> None:
        """Wait for the process, which is about to end, and release what belongs to it."""
        self.exit_code = finish(self.process, _JOIN_S)
        self.connection.close()
