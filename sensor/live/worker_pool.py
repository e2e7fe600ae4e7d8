"""The workers as the supervisor sees them: started, heard, replaced, and restarted when they die or hang.

Runs in the supervisor, in one thread.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import NamedTuple

from sensor.capture.clock import WallClock
from sensor.capture.ring import PerfRing
from sensor.errors import SensorError
from sensor.live.worker import DRAIN, HAND_OVER, Farewell, Up, signals_held, work
from sensor.pipeline import BatchReport, Pipeline
from sensor.rules.engine.flows import FlowTable

MOST_DEATHS = 3
"""Workers that may die one after the other at the same batch until it is given up."""
MOST_STILLBORN = 10
"""Workers that may die one after the other, young and without a report, until that is the end."""
YOUNG_S = 1.0
LOOK_S = 1.0
MOST_STILL = 20
"""Looks at a worker that has work and got nothing done since the look before, until it is killed."""
_ENDED_S = 5

_fork = multiprocessing.get_context("fork")
log = logging.getLogger(__name__)


class WorkerProcess:
    """One process and its share of the rings."""

    def __init__(self, number: int, rings: Sequence[PerfRing], pipeline: Pipeline, flows: FlowTable) -> None:
        """Start it with these rules, and with what is known of the flows.

        Raises:
            SensorError: The kernel starts no more processes.
        """
        self.number = number
        self.rings = rings
        self.flows = flows
        self.told: signal.Signals | None = None
        """What it was asked to do last."""
        self.is_up = False
        self.has_reported = False
        self.farewell: Farewell | None = None
        self.exit_code: int | None = None
        pipeline.flows = flows
        self.connection, far_end = _fork.Pipe(duplex=False)
        arguments = (number, pipeline, rings, far_end, os.getpid())
        self.process = _fork.Process(target=work, args=arguments, name=f"worker {number}", daemon=True)
        try:
            with signals_held():
                self.process.start()
        except OSError as error:
            raise SensorError(
                f"no worker can be started: {error.strerror}; look at the limits of processes and memory"
            ) from error
        self._started_s = time.monotonic()
        self._tails: list[int] = []
        self._still = 0
        far_end.close()  # the worker's death is then the end of what can be received

    def tell(self, what: signal.Signals) -> None:
        """Ask it to end in one of two ways."""
        self.told = what
        if self.process.pid is not None and self.process.exitcode is None:
            os.kill(self.process.pid, what)

    @property
    def is_stillborn(self) -> bool:
        """Whether it, now dead, never came to do anything."""
        return not self.has_reported and time.monotonic() - self._started_s < YOUNG_S

    def hangs(self) -> bool:
        """Whether it does not get on with what it has to do, for the last of many looks in a row.

        Looks are counted, not seconds: where the supervisor stood still itself, nobody is to blame.
        """
        tails = [ring.tail for ring in self.rings]
        idle = self.told is None and not any(ring.waiting_bytes for ring in self.rings)
        self._still = 0 if idle or tails != self._tails else self._still + 1
        self._tails = tails
        return self._still >= MOST_STILL

    def bury(self) -> None:
        """Wait for its end, which is near."""
        self.process.join(_ENDED_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.exit_code = self.process.exitcode
        self.process.close()
        self.connection.close()


class _Deaths(NamedTuple):
    """Workers that died, one after the other, before anything more was read of a ring."""

    tail: int
    """Where the ring's tail stood."""
    workers: int


class WorkerPool:
    """All workers, each with the rings of every so-many-th CPU."""

    def __init__(self, pipeline: Pipeline, rings: Sequence[PerfRing], workers: int) -> None:
        self.restarts = 0
        """Workers that died and were replaced."""
        self._pipeline = pipeline
        self._told: dict[int, int] = {}  # by CPU, where its ring's tail has to be by the reports
        self._deaths: dict[int, _Deaths] = {}  # by CPU
        self._stillborn: Counter[int] = Counter()  # by worker, one after the other
        self._look_s = time.monotonic()
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
        """Workers that run at this moment."""
        return sum(worker.process.exitcode is None for worker in self._workers)

    def until_up(self) -> Iterator[BatchReport]:
        """Wait until every worker reads its rings; what they report until then is yielded.

        Raises:
            SensorError: No worker stays alive.
        """
        while not all(worker.is_up for worker in self._workers):
            yield from self.receive(LOOK_S)

    def receive(self, timeout_s: float) -> Iterator[BatchReport]:
        """Yield what the workers report; where one has died or hangs, start another in its place.

        Raises:
            SensorError: No worker stays alive.
        """
        for worker in self._ready(timeout_s):
            yield from self._hear(worker)
        self._kill_hanging()

    def hand_over(self, pipeline: Pipeline) -> Iterator[BatchReport]:
        """Replace every worker by one with this pipeline; what they report until then is yielded."""
        self._pipeline = pipeline
        for worker in self._workers:
            worker.tell(HAND_OVER)
        while any(worker.told for worker in self._workers):
            yield from self.receive(LOOK_S)

    def drain(self) -> Iterator[BatchReport]:
        """Let the workers read their rings empty and end; no frames arrive any more."""
        for worker in self._workers:
            worker.tell(DRAIN)
        while self._workers:
            yield from self.receive(LOOK_S)

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.process.kill()
            worker.bury()
        self._workers = []

    def _ready(self, timeout_s: float) -> list[WorkerProcess]:
        connections: dict[object, WorkerProcess] = {worker.connection: worker for worker in self._workers}
        return [connections[one] for one in wait([w.connection for w in self._workers], timeout_s)]

    def _kill_hanging(self) -> None:
        if time.monotonic() < self._look_s:
            return
        self._look_s = time.monotonic() + LOOK_S
        for worker in self._workers:
            if worker.hangs():
                log.error("worker %d hangs: it is killed", worker.number)
                worker.process.kill()

    def _hear(self, worker: WorkerProcess) -> Iterator[BatchReport]:
        """Take one message of a worker."""
        try:
            message = pickle.loads(worker.connection.recv_bytes())  # noqa: S301 - our own child wrote it
        except (EOFError, OSError):
            yield from self._replace(worker)
            return
        if isinstance(message, Up):
            worker.is_up = True
            return
        if isinstance(message, Farewell):
            worker.farewell = message
            return
        worker.has_reported = True
        self._told[message.cpu] = message.tail
        yield message

    def _replace(self, worker: WorkerProcess) -> Iterator[BatchReport]:
        """Start another worker in the place of one that has ended, unless that was the end of the work."""
        place = self._workers.index(worker)
        del self._workers[place]
        worker.bury()
        if worker.farewell is None:
            self.restarts += 1
            log.error("worker %d died (exit code %s); starting another", worker.number, worker.exit_code)
            self._count_stillborn(worker)
            yield from self._clear_away(worker)
        elif worker.told == DRAIN:
            return
        else:
            del self._stillborn[worker.number]
        flows = worker.farewell.flows if worker.farewell else worker.flows
        successor = WorkerProcess(worker.number, worker.rings, self._pipeline, flows)
        self._workers.insert(place, successor)
        if worker.told == DRAIN:
            successor.tell(DRAIN)

    def _count_stillborn(self, dead: WorkerProcess) -> None:
        self._stillborn[dead.number] = self._stillborn[dead.number] + 1 if dead.is_stillborn else 0
        if self._stillborn[dead.number] >= MOST_STILLBORN:
            raise SensorError(
                f"{MOST_STILLBORN} workers died one after the other as soon as they were started (exit code "
                f"{dead.exit_code}); the lines before this one say why, or the kernel does: dmesg | tail"
            )

    def _clear_away(self, dead: WorkerProcess) -> Iterator[BatchReport]:
        """See to it that nothing reported is read again, and no batch kills a worker for ever."""
        for ring in dead.rings:
            ring.release_up_to(self._told.get(ring.cpu, 0))
            before = self._deaths.get(ring.cpu)
            workers = before.workers + 1 if before and before.tail == ring.tail else 1
            self._deaths[ring.cpu] = _Deaths(ring.tail, workers if ring.fill() else 0)
        for ring in dead.rings:
            if self._deaths[ring.cpu].workers >= MOST_DEATHS:
                for one in dead.rings:
                    del self._deaths[one.cpu]  # whether the others' batches are deadly nobody knows yet
                yield from self._skip(ring)
                return

    def _skip(self, ring: PerfRing) -> Iterator[BatchReport]:
        """Give up a batch; its frames count as undecodable."""
        batch = ring.read(self._clock)
        if batch is None:
            return
        log.error("%d frames of CPU %d are skipped: workers die of them", len(batch), ring.cpu)
        ring.release()
        self._stillborn.clear()
        yield BatchReport(ring.cpu, ring.tail, len(batch), len(batch), 0, 0, [])
