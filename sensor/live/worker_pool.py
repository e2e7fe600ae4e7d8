"""All workers: start them, receive their reports, and replace those that die, hang, or have old rules.

Runs in the supervisor, in one thread.
"""

from __future__ import annotations

import logging
import select
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from sensor.capture.clock import WallClock
from sensor.capture.ring import PerfRing
from sensor.errors import KernelError, SensorError
from sensor.evidence.batch_report import BatchReport
from sensor.evidence.quarantine import QuarantinedFrame
from sensor.live.report_channel import MalformedReportError
from sensor.live.report_check import checked_report
from sensor.live.suspects import Suspects
from sensor.live.worker import DRAIN, HAND_OVER
from sensor.live.worker_process import WorkerProcess
from sensor.native.source_table import SourceTable
from sensor.pipeline import Pipeline
from sensor.process.child import KILLED_S

MOST_UNEXPLAINED_DEATHS = 20
"""Workers that may die in a row between two batches and without progress, until frames are suspected."""
MOST_DEATHS_AT_START = 10
"""Workers that may die in a row at their start, until the sensor ends."""
MOST_UNREAPED = 8
"""Killed workers that the kernel may hold, until no further one is replaced before it has ended."""
CHECK_S = 1.0
"""Seconds between two checks of the workers' progress."""
_REAP_S = 0.2
"""Time that a killed worker usually needs to end; capture goes on without it if it takes longer."""

log = logging.getLogger(__name__)


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
        self._suspects = {ring.cpu: Suspects(ring) for ring in rings}
        self._unexplained_deaths: Counter[int] = Counter()  # by worker number, in a row
        self._deaths_at_start: Counter[int] = Counter()  # by worker number, in a row
        self._next_check_s = time.monotonic()
        count = max(1, min(workers, len(rings)))
        self._rings = [list(rings[number::count]) for number in range(count)]
        """The rings of each worker."""
        self._workers: list[WorkerProcess] = []
        try:
            for number in range(count):
                flows = pipeline.flows if count == 1 else pipeline.flows.empty_copy()
                worker = WorkerProcess(number, self._rings[number], pipeline, flows, SourceTable(), {})
                self._workers.append(worker)
        except BaseException:
            self.kill()
            raise

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    @property
    def sources(self) -> list[SourceTable]:
        """The sources of each worker's packets; the tables outlive the workers."""
        return [worker.sources for worker in self._workers]

    @property
    def reported_tails(self) -> dict[int, int]:
        """By CPU: the tail of its ring after the last batch that was reported."""
        return {cpu: tail for worker in self._workers for cpu, tail in worker.reported_tails.items()}

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
        if time.monotonic() >= self._next_check_s:
            self._next_check_s = time.monotonic() + CHECK_S
            yield from self._check()

    def hand_over(self, pipeline: Pipeline) -> Iterator[BatchReport]:
        """Replace every worker by one with this pipeline; yield the reports that arrive meanwhile."""
        self._pipeline = pipeline
        for worker in self._workers:
            worker.stop(HAND_OVER)
        while any(worker.stop_signal for worker in self._workers):
            yield from self.receive(CHECK_S)

    def add_rings(self, rings: Iterable[PerfRing]) -> Iterator[BatchReport]:
        """Replace workers by ones that read these rings too; yield the reports that arrive meanwhile."""
        numbers = set()
        for ring in rings:
            number = min(range(len(self._rings)), key=lambda number: len(self._rings[number]))
            self._rings[number].append(ring)
            self._suspects[ring.cpu] = Suspects(ring)
            numbers.add(number)
        for worker in self._workers:
            if worker.number in numbers:
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
            worker.reap(KILLED_S)
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
            yield from self._handle_end(worker)
        if report is not None:
            yield report

    def _handle_end(self, worker: WorkerProcess) -> Iterator[BatchReport]:
        """Start a successor for a worker that has ended, unless it has drained its rings.

        Yields a report of the frame that workers die of, if one was found.
        """
        place = self._workers.index(worker)
        del self._workers[place]
        if not worker.reap(_REAP_S):
            self._unreaped.append(worker)
        reports: list[BatchReport] = []
        if not worker.has_stopped:
            self.restarts += 1
            log.error("worker %d died (exit code %s); starting another", worker.number, worker.exit_code)
            reports = self._recover_rings(worker)
        elif worker.stop_signal == DRAIN:
            return
        else:
            del self._deaths_at_start[worker.number]
        rings = self._rings[worker.number]
        suspects = {ring.cpu: self._suspects[ring.cpu].end for ring in rings}
        tables = worker.flows, worker.sources
        successor = WorkerProcess(worker.number, rings, self._pipeline, *tables, suspects)
        self._workers.insert(place, successor)
        if worker.stop_signal == DRAIN:
            successor.stop(DRAIN)
        yield from reports

    def _recover_rings(self, dead: WorkerProcess) -> list[BatchReport]:
        """Let the rings of a dead worker continue where its reports end.

        Returns a report of the frame that workers die of, if one was found.
        """
        reports = []
        for ring in dead.rings:
            ring.resume_at(dead.reported_tails[ring.cpu])
        suspected = self._suspected_rings(dead)
        if not suspected:
            self._count_death_at_start(dead)
        for ring in suspected:
            self._deaths_at_start[dead.number] = 0
            suspects = self._suspects[ring.cpu]
            try:
                if suspects.note_death(dead.heartbeat.sign().place):
                    reports.append(self._put_aside(ring, suspects.end))
            except KernelError as error:
                log.error("%s; what is in it is lost", error)  # noqa: TRY400
                ring.resume_at(ring.head)
        return reports

    def _suspected_rings(self, dead: WorkerProcess) -> list[PerfRing]:
        """Return the rings with frames that the worker may have died of.

        It is the ring it was reading, as it says; all of them after many deaths in a row without progress.
        """
        waiting = [ring for ring in dead.rings if ring.waiting_bytes]
        reading = [ring for ring in waiting if ring.cpu == dead.heartbeat.sign().cpu]
        is_unexplained = waiting and not reading and dead.has_started and not dead.has_reported
        deaths = self._unexplained_deaths[dead.number] + 1 if is_unexplained else 0
        self._unexplained_deaths[dead.number] = deaths
        return waiting if deaths > MOST_UNEXPLAINED_DEATHS else reading

    def _count_death_at_start(self, dead: WorkerProcess) -> None:
        deaths = self._deaths_at_start[dead.number] + 1 if dead.died_early else 0
        self._deaths_at_start[dead.number] = deaths
        if deaths >= MOST_DEATHS_AT_START:
            raise SensorError(
                f"{deaths} workers in a row died as soon as they were started (exit code {dead.exit_code}); "
                "see the log lines before this one, and the kernel's: dmesg | tail"
            )

    def _put_aside(self, ring: PerfRing, end: int) -> BatchReport:
        """Release the oldest frame of a ring, which ends at ``end``; return the report that has it."""
        batch, size = ring.read(WallClock(), end), end - ring.tail
        ring.release()
        frame = None
        if batch:
            log.error("a frame of CPU %d is put in quarantine: workers die of it", ring.cpu)
            start, caplen = int(batch.start[0]), min(int(batch.caplen[0]), size)
            data = bytes(batch.buffer[start : start + caplen])
            frame = QuarantinedFrame(data, int(batch.wirelen[0]), int(batch.timestamp_ns[0]), ring.linktype)
        return BatchReport(ring.cpu, ring.tail, int(frame is not None), 0, 0, 0, None, quarantined=frame)

    def _check(self) -> Iterator[BatchReport]:
        """Kill workers that do not work; go on without those that the kernel does not let end."""
        self._unreaped = [worker for worker in self._unreaped if not worker.reap(0)]
        for worker in list(self._workers):
            if worker.check() and len(self._unreaped) < MOST_UNREAPED:
                log.error("worker %d was killed, but the kernel holds it", worker.number)
                yield from self._handle_end(worker)
