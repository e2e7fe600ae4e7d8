"""All workers: start them, receive their reports, and replace those that die, hang, or have old rules.

Runs in the supervisor, in one thread.
"""

from __future__ import annotations

import logging
import select
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from sensor.capture.ring import PerfRing
from sensor.errors import SensorError
from sensor.live.report_channel import MalformedReportError
from sensor.live.report_check import checked_report
from sensor.live.worker import DRAIN, HAND_OVER
from sensor.live.worker_process import WorkerProcess
from sensor.pipeline import BatchReport, Pipeline

MOST_DEATHS = 3
"""Workers that may die in a row at the same batch, until the batch is skipped."""
MOST_DEATHS_AT_START = 10
"""Workers that may die in a row at their start, until the sensor ends."""
CHECK_S = 1.0
"""Seconds between two checks of the workers' progress."""
_REAP_S = 0.2
"""Time that a killed worker usually needs to end; capture goes on without it if it takes longer."""
_KILLED_S = 5.0

log = logging.getLogger(__name__)


class _Deaths(NamedTuple):
    """Workers that died in a row while a ring's tail stayed where it was."""

    tail: int
    workers: int


class WorkerPool:
    """All workers; with n of them, each has the rings of every nth CPU."""

    def __init__(
        self, pipeline: Pipeline, rings: Sequence[PerfRing], workers: int, interfaces: Collection[int]
    ) -> None:
        """Start up to ``workers`` workers, and no more than there are rings.

        ``interfaces`` are the indexes of the interfaces that are captured on.

        Raises:
            SensorError: The kernel starts no more processes.
        """
        self.restarts = 0
        """Workers that died and were replaced."""
        self._pipeline = pipeline
        self._interfaces = interfaces
        self._unreaped: list[WorkerProcess] = []
        """Killed workers whose end has not been seen yet, as when the kernel holds them in a system call."""
        self._deaths: dict[int, _Deaths] = {}  # by CPU
        self._deaths_at_start: Counter[int] = Counter()  # by worker number, in a row
        self._next_check_s = time.monotonic()
        count = max(1, min(workers, len(rings)))
        self._workers: list[WorkerProcess] = []
        try:
            for number in range(count):
                flows = pipeline.flows if count == 1 else pipeline.flows.empty_copy()
                self._workers.append(WorkerProcess(number, rings[number::count], pipeline, flows))
        except BaseException:
            self.kill()
            raise

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def alive(self) -> int:
        """Number of workers that run at this moment."""
        return sum(worker.is_alive for worker in self._workers)

    def until_started(self) -> Iterator[BatchReport]:
        """Wait until every worker reads its rings; yield the reports that arrive meanwhile.

        Raises:
            SensorError: Workers die as soon as they are started.
        """
        while not all(worker.has_started for worker in self._workers):
            yield from self.receive(CHECK_S)

    def receive(self, timeout_s: float) -> Iterator[BatchReport]:
        """Yield the workers' reports; replace workers that have died, kill those that hang.

        Raises:
            SensorError: Workers die as soon as they are started.
        """
        poll = select.poll()
        by_fd = {worker.channel.fileno(): worker for worker in self._workers}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(timeout_s * 1000):
            yield from self._receive_from(by_fd[fd])
        self._kill_stalled()

    def hand_over(self, pipeline: Pipeline) -> Iterator[BatchReport]:
        """Replace every worker by one with this pipeline; yield the reports that arrive meanwhile."""
        self._pipeline = pipeline
        for worker in self._workers:
            worker.stop(HAND_OVER)
        while any(worker.stop_signal for worker in self._workers):
            yield from self.receive(CHECK_S)

    def drain(self) -> Iterator[BatchReport]:
        """Let the workers empty their rings and end, once no more frames arrive; yield their reports."""
        for worker in self._workers:
            worker.stop(DRAIN)
        while self._workers:
            yield from self.receive(CHECK_S)

    def kill(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.condemn()
        for worker in (*self._workers, *self._unreaped):
            worker.reap(_KILLED_S)
        self._workers = []

    def _receive_from(self, worker: WorkerProcess) -> Iterator[BatchReport]:
        """Handle one message of a worker, or its end. A worker that sends a malformed one is killed."""
        report = None
        try:
            if worker.is_condemned:
                has_ended = not worker.channel.discard()
            else:
                message = worker.channel.receive(worker.pipeline)
                has_ended = message is None
                if message is not None:
                    report = checked_report(worker, message, self._interfaces)
        except BlockingIOError:
            return
        except MalformedReportError as error:
            log.error("worker %d sent a malformed report and is killed: %s", worker.number, error)  # noqa: TRY400
            worker.condemn()
            return
        if has_ended:
            worker.condemn()  # it may have closed its channel and still be running
            self._handle_end(worker)
        if report is not None:
            yield report

    def _handle_end(self, worker: WorkerProcess) -> None:
        """Start a successor for a worker that has ended, unless it has drained its rings."""
        place = self._workers.index(worker)
        del self._workers[place]
        if not worker.reap(_REAP_S):
            self._unreaped.append(worker)
        skip_cpu = None
        if not worker.has_stopped:
            self.restarts += 1
            log.error("worker %d died (exit code %s); starting another", worker.number, worker.exit_code)
            self._count_death_at_start(worker)
            skip_cpu = self._recover_rings(worker)
        elif worker.stop_signal == DRAIN:
            return
        else:
            del self._deaths_at_start[worker.number]
        successor = WorkerProcess(worker.number, worker.rings, self._pipeline, worker.flows, skip_cpu)
        self._workers.insert(place, successor)
        if worker.stop_signal == DRAIN:
            successor.stop(DRAIN)

    def _count_death_at_start(self, dead: WorkerProcess) -> None:
        deaths = self._deaths_at_start[dead.number] + 1 if dead.died_at_start else 0
        self._deaths_at_start[dead.number] = deaths
        if deaths >= MOST_DEATHS_AT_START:
            raise SensorError(
                f"{deaths} workers in a row died as soon as they were started (exit code {dead.exit_code}); "
                "see the log lines before this one, and the kernel's: dmesg | tail"
            )

    def _recover_rings(self, dead: WorkerProcess) -> int | None:
        """Let the rings of a dead worker continue where its reports end.

        Returns the CPU whose next batch the successor has to skip, because workers died of it.
        """
        for ring in dead.rings:
            ring.resume_at(dead.reported_tails[ring.cpu])
            before = self._deaths.get(ring.cpu)
            workers = before.workers + 1 if before and before.tail == ring.tail else 1
            self._deaths[ring.cpu] = _Deaths(ring.tail, workers if ring.fill() else 0)
        for ring in dead.rings:
            if self._deaths[ring.cpu].workers >= MOST_DEATHS:
                for one in dead.rings:
                    del self._deaths[one.cpu]  # the batches of the other rings may be harmless
                log.error("skipping a batch of CPU %d: workers die of it", ring.cpu)
                self._deaths_at_start.clear()
                return ring.cpu
        return None

    def _kill_stalled(self) -> None:
        if time.monotonic() < self._next_check_s:
            return
        self._next_check_s = time.monotonic() + CHECK_S
        self._unreaped = [worker for worker in self._unreaped if not worker.reap(0)]
        for worker in self._workers:
            if worker.has_stalled():
                log.error("worker %d made no progress and was killed", worker.number)
                worker.process.kill()
