"""All workers: start them, receive their reports, and replace those that die, hang, or have old rules.

Runs in the supervisor, in one thread.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import NamedTuple

from sensor.capture.clock import WallClock
from sensor.capture.ring import PerfRing
from sensor.errors import SensorError
from sensor.live.worker import DRAIN, HAND_OVER, Started, Stopped
from sensor.live.worker_process import WorkerProcess
from sensor.pipeline import BatchReport, Pipeline

MOST_DEATHS = 3
"""Workers that may die in a row at the same batch, until the batch is skipped."""
MOST_DEATHS_AT_START = 10
"""Workers that may die in a row at their start, until the sensor ends."""
CHECK_S = 1.0
"""Seconds between two checks of the workers' progress."""

log = logging.getLogger(__name__)


class _Deaths(NamedTuple):
    """Workers that died in a row while a ring's tail stayed where it was."""

    tail: int
    workers: int


class WorkerPool:
    """All workers; with n of them, each has the rings of every nth CPU."""

    def __init__(self, pipeline: Pipeline, rings: Sequence[PerfRing], workers: int) -> None:
        """Start up to ``workers`` workers, and no more than there are rings.

        Raises:
            SensorError: The kernel starts no more processes.
        """
        self.restarts = 0
        """Workers that died and were replaced."""
        self._pipeline = pipeline
        self._reported_tails: dict[int, int] = {}  # by CPU: tail of its ring after the last reported batch
        self._deaths: dict[int, _Deaths] = {}  # by CPU
        self._deaths_at_start: Counter[int] = Counter()  # by worker number, in a row
        self._next_check_s = time.monotonic()
        self._clock = WallClock()
        count = max(1, min(workers, len(rings)))
        self._workers: list[WorkerProcess] = []
        try:
            for number in range(count):
                self._workers.append(WorkerProcess(number, rings[number::count], pipeline, pipeline.flows))
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
        connections: dict[object, WorkerProcess] = {worker.connection: worker for worker in self._workers}
        for connection in wait([worker.connection for worker in self._workers], timeout_s):
            yield from self._receive_from(connections[connection])
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
            worker.process.kill()
            worker.join()
        self._workers = []

    def _receive_from(self, worker: WorkerProcess) -> Iterator[BatchReport]:
        """Handle one message of a worker, or its end."""
        try:
            message = pickle.loads(worker.connection.recv_bytes())  # noqa: S301 - our own child wrote it
        except (EOFError, OSError):
            yield from self._handle_end(worker)
            return
        if isinstance(message, Started):
            worker.has_started = True
        elif isinstance(message, Stopped):
            worker.stopped = message
        else:
            worker.has_reported = True
            self._reported_tails[message.cpu] = message.tail
            yield message

    def _handle_end(self, worker: WorkerProcess) -> Iterator[BatchReport]:
        """Start a successor for a worker that has ended, unless it has drained its rings."""
        place = self._workers.index(worker)
        del self._workers[place]
        worker.join()
        if worker.stopped is None:
            self.restarts += 1
            log.error("worker %d died (exit code %s); starting another", worker.number, worker.exit_code)
            self._count_death_at_start(worker)
            yield from self._recover_rings(worker)
        elif worker.stop_signal == DRAIN:
            return
        else:
            del self._deaths_at_start[worker.number]
        flows = worker.stopped.flows if worker.stopped else worker.flows
        successor = WorkerProcess(worker.number, worker.rings, self._pipeline, flows)
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

    def _recover_rings(self, dead: WorkerProcess) -> Iterator[BatchReport]:
        """Release what a dead worker reported but did not release; skip a batch that killed several."""
        for ring in dead.rings:
            ring.release_up_to(self._reported_tails.get(ring.cpu, 0))
            before = self._deaths.get(ring.cpu)
            workers = before.workers + 1 if before and before.tail == ring.tail else 1
            self._deaths[ring.cpu] = _Deaths(ring.tail, workers if ring.fill() else 0)
        for ring in dead.rings:
            if self._deaths[ring.cpu].workers >= MOST_DEATHS:
                for one in dead.rings:
                    del self._deaths[one.cpu]  # the batches of the other rings may be harmless
                yield from self._skip_batch(ring)
                return

    def _skip_batch(self, ring: PerfRing) -> Iterator[BatchReport]:
        """Release a ring's next batch unread; report its frames as undecodable."""
        batch = ring.read(self._clock)
        if batch is None:
            return
        log.error("skipping %d frames of CPU %d: workers die of them", len(batch), ring.cpu)
        ring.release()
        self._deaths_at_start.clear()
        yield BatchReport(ring.cpu, ring.tail, len(batch), len(batch), 0, 0, [])

    def _kill_stalled(self) -> None:
        if time.monotonic() < self._next_check_s:
            return
        self._next_check_s = time.monotonic() + CHECK_S
        for worker in self._workers:
            if worker.has_stalled():
                log.error("worker %d hangs and is killed", worker.number)
                worker.process.kill()
