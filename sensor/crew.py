"""The workers as the supervisor sees them: started, heard, replaced, and restarted when they die.

Runs in the supervisor, in one thread.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait

from sensor.capture.clock import WallClock
from sensor.capture.ring import PerfRing
from sensor.pipeline import Pipeline
from sensor.worker import DRAIN, HAND_OVER, Farewell, Report, work

MOST_FRUITLESS = 3
"""Workers that may die one after the other at the same batch until it is given up."""
_ENDED_S = 5

_fork = multiprocessing.get_context("fork")
log = logging.getLogger(__name__)


class Worker:
    """One process and its share of the rings."""

    def __init__(self, number: int, rings: Sequence[PerfRing], pipeline: Pipeline) -> None:
        self.number = number
        self.rings = rings
        self.told: signal.Signals | None = None
        """What it was asked to do last."""
        self.farewell: Farewell | None = None
        self.connection, far_end = _fork.Pipe(duplex=False)
        self.process = _fork.Process(
            target=work, args=(number, pipeline, rings, far_end), name=f"worker {number}", daemon=True
        )
        self.process.start()
        far_end.close()  # the worker's death is then the end of what can be received

    def tell(self, what: signal.Signals) -> None:
        """Ask it to end in one of two ways."""
        self.told = what
        if self.process.pid is not None and self.process.exitcode is None:
            os.kill(self.process.pid, what)

    def bury(self) -> None:
        """Wait for its end, which is near."""
        self.process.join(_ENDED_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.connection.close()


class Crew:
    """All workers, each with the rings of every so-many-th CPU."""

    def __init__(self, pipeline: Pipeline, rings: Sequence[PerfRing], workers: int) -> None:
        self.restarts = 0
        """Workers that died and were replaced."""
        self._pipeline = pipeline
        self._told: dict[int, int] = {}  # by CPU, where its ring's tail has to be by the reports
        self._fruitless: dict[int, int] = {}  # by worker, deaths without a report between them
        self._clock = WallClock()
        count = max(1, min(workers, len(rings)))
        self._workers = [Worker(number, rings[number::count], pipeline) for number in range(count)]

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def alive(self) -> int:
        """Workers that run at this moment."""
        return sum(worker.process.exitcode is None for worker in self._workers)

    def receive(self, timeout_s: float) -> Iterator[Report]:
        """Yield what the workers report; where one has died, start another in its place."""
        for worker in self._ready(timeout_s):
            yield from self._hear(worker)

    def hand_over(self, pipeline: Pipeline) -> Iterator[Report]:
        """Replace every worker by one with this pipeline; what they report until then is yielded."""
        self._pipeline = pipeline
        for worker in self._workers:
            worker.tell(HAND_OVER)
        while any(worker.told for worker in self._workers):
            yield from self.receive(1)

    def drain(self) -> Iterator[Report]:
        """Let the workers read their rings empty and end; no frames arrive any more."""
        for worker in self._workers:
            worker.tell(DRAIN)
        while self._workers:
            yield from self.receive(1)

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.process.kill()
            worker.bury()
        self._workers = []

    def _ready(self, timeout_s: float) -> list[Worker]:
        connections: dict[object, Worker] = {worker.connection: worker for worker in self._workers}
        return [connections[one] for one in wait([w.connection for w in self._workers], timeout_s)]

    def _hear(self, worker: Worker) -> Iterator[Report]:
        """Take one message of a worker."""
        try:
            message = pickle.loads(worker.connection.recv_bytes())  # noqa: S301 - our own child wrote it
        except (EOFError, OSError):
            yield from self._replace(worker)
            return
        if isinstance(message, Farewell):
            worker.farewell = message
            return
        self._told[message.cpu] = message.tail
        self._fruitless.pop(worker.number, None)
        yield message

    def _replace(self, worker: Worker) -> Iterator[Report]:
        """Start another worker in the place of one that has ended, unless that was the end of the work."""
        worker.bury()
        place = self._workers.index(worker)
        if worker.farewell is None:
            self._died(worker)
            if self._fruitless[worker.number] >= MOST_FRUITLESS:
                yield from self._give_up(worker)
        elif worker.told == DRAIN:
            del self._workers[place]
            return
        else:
            self._pipeline.flows = worker.farewell.flows
        successor = Worker(worker.number, worker.rings, self._pipeline)
        self._workers[place] = successor
        if worker.told == DRAIN:
            successor.tell(DRAIN)

    def _died(self, worker: Worker) -> None:
        """Count it, and see to it that what it reported last is not read again."""
        self.restarts += 1
        self._fruitless[worker.number] = self._fruitless.get(worker.number, 0) + 1
        log.error("worker %d died (exit code %s); starting another", worker.number, worker.process.exitcode)
        for ring in worker.rings:
            ring.release_up_to(self._told.get(ring.cpu, 0))

    def _give_up(self, worker: Worker) -> Iterator[Report]:
        """Skip a batch of each ring that workers die at; its frames count as undecodable."""
        self._fruitless.pop(worker.number)
        for ring in worker.rings:
            batch = ring.read(self._clock)
            if batch is None:
                continue
            log.error("%d frames of CPU %d are skipped: workers die of them", len(batch), ring.cpu)
            ring.release()
            yield Report(ring.cpu, ring.tail, len(batch), len(batch), 0, 0, [])
