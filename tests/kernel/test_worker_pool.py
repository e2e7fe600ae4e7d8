"""Worker processes on real rings: they die, hang, are replaced and drained; each frame counts once.

Frames get into the ring of a CPU by BPF_PROG_TEST_RUN there: no interface is needed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from frames import IPV4, UDP, ethernet, ipv4, udp
from live import PASS_ALL

import sensor.live.worker_pool
from sensor.capture.cpus import online_cpus
from sensor.capture.program import Program
from sensor.capture.ring import RingSet
from sensor.capture.syscalls import prog_test_run
from sensor.errors import SensorError
from sensor.live.worker_pool import MOST_DEATHS, MOST_STILL, MOST_STILLBORN, WorkerPool
from sensor.model import Evidence, FrameBatch, Rule
from sensor.pipeline import BatchReport, Pipeline

pytestmark = pytest.mark.kernel

RULE = Rule(1, "threat", "t", "n", "number")
TIMES = 25


class Deadly(Pipeline):
    """Kills the process at certain frames, as a bug in a library might."""

    def process(self, batch: FrameBatch) -> list[Evidence]:
        """Match, or die."""
        ends = (batch.start + batch.caplen).tolist()
        if any(batch.buffer[end - 6 : end] == b"deadly" for end in ends):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().process(batch)


class Site:
    """A program with a ring on every CPU, and what the workers behind it report."""

    def __init__(self, stack: ExitStack) -> None:
        self.program = stack.enter_context(closing(Program(PASS_ALL)))
        self.rings = stack.enter_context(closing(RingSet.open(1 << 20)))
        self.program.connect(self.rings.rings)
        self._stack = stack
        self.fed = self.read = self.undecodable = 0
        self.found: list[bytes] = []

    def crew(self, pipeline: Pipeline, workers: int) -> WorkerPool:
        """Start workers."""
        crew = WorkerPool(pipeline, self.rings.rings, workers)
        self._stack.callback(crew.kill)
        return crew

    def feed(self, cpu: int, count: int = 1, end: bytes = b"") -> None:
        """Put frames into the ring of a CPU; each has a number of its own."""
        os.sched_setaffinity(0, {cpu})
        for _ in range(count):
            payload = b"number %d %b" % (self.fed, end)
            prog_test_run(
                self.program.fd, ethernet(IPV4, ipv4(UDP, udp(payload, sport=self.fed % 60_000 + 1)))
            )
            self.fed += 1
        os.sched_setaffinity(0, online_cpus())

    def take(self, reports: Iterable[BatchReport]) -> None:
        """Add up what was reported."""
        for report in reports:
            self.read += report.read
            self.undecodable += report.undecodable
            self.found += [item.payload for item in report.items]

    def kill_worker(self, number: int = 0) -> None:
        """As the kernel does when memory is short."""
        os.kill(self.workers[number], signal.SIGKILL)

    @property
    def workers(self) -> list[int]:
        """Their process ids, in order."""
        return [int(child) for child in Path("/proc/thread-self/children").read_text().split()]


@pytest.fixture
def site() -> Iterator[Site]:
    """The program, loaded; whatever happens, workers end with the test."""
    with ExitStack() as stack:
        yield Site(stack)


def pipeline(kind: type[Pipeline] = Pipeline) -> Pipeline:
    """One rule; every packet of a flow."""
    return kind([RULE], "any", "thorough")


def open_files() -> list[str]:
    """What this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of this very listing
            found.append(str(descriptor.readlink()).partition(":[")[0])
    return sorted(found)


def assert_each_once(site: Site, *, missing: int = 0) -> None:
    """Every frame was read once, and but for these became evidence once."""
    assert site.read == site.fed
    assert site.rings.waiting() == 0
    assert len(site.found) == len(set(site.found)) == site.fed - missing


def test_a_deadly_batch_is_given_up(site: Site) -> None:
    """After so many workers; its frames count as undecodable, those of other rings are matched meanwhile."""
    crew = site.crew(pipeline(Deadly), workers=1)
    quiet, busy = online_cpus()[-1], online_cpus()[0]
    site.feed(quiet, end=b"deadly")
    while not site.undecodable:
        site.feed(busy)
        site.take(crew.receive(0.01))
    assert crew.restarts == MOST_DEATHS
    site.feed(quiet, 100)
    site.take(crew.drain())
    assert site.undecodable == 1
    assert_each_once(site, missing=1)


def test_deaths_while_there_is_nothing_to_read_cost_nothing(site: Site) -> None:
    """However many, the next batch is read."""
    crew = site.crew(pipeline(), workers=1)
    for deaths in range(1, MOST_DEATHS + 3):
        site.kill_worker()
        while crew.restarts < deaths:
            site.take(crew.receive(1))
    site.feed(0, 10)
    site.take(crew.drain())
    assert_each_once(site)


def test_a_worker_dies_while_the_rings_are_drained(site: Site) -> None:
    """Another one drains them; at whatever moment that is."""
    for _ in range(TIMES):
        crew = site.crew(pipeline(), workers=2)
        for cpu in online_cpus():
            site.feed(cpu, 200)
        site.kill_worker()
        site.take(crew.drain())
        assert crew.restarts == 1
        assert_each_once(site)


def test_a_worker_dies_while_rules_are_handed_over(site: Site) -> None:
    """Its successor has the new ones; so have all."""
    crew = site.crew(pipeline(), workers=2)
    for number in range(TIMES):
        for cpu in online_cpus():
            site.feed(cpu, 50)
        site.kill_worker(number % 2)
        site.take(crew.hand_over(pipeline()))
        assert len(site.workers) == 2
        while site.read < site.fed:  # three deaths without that, and frames would be given up
            site.take(crew.receive(1))
    site.take(crew.drain())
    assert 0 < crew.restarts <= TIMES
    assert_each_once(site)


def test_workers_are_told_in_their_first_moments(site: Site) -> None:
    """To hand over and to drain, and by others who must not: nothing is lost and no worker seems to die."""
    for _ in range(TIMES):
        crew = site.crew(pipeline(), workers=2)
        site.feed(0, 10)
        for worker in site.workers:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(worker, number)
        site.take(crew.hand_over(pipeline()))
        site.take(crew.drain())
        assert crew.restarts == 0
        assert_each_once(site)


def test_nothing_stays_open(site: Site) -> None:
    """After many deaths and many new rule sets as many files are open as before."""
    crew = site.crew(pipeline(), workers=2)
    before = open_files()
    for number in range(TIMES):
        site.kill_worker(number % 2)
        while crew.restarts <= number:
            site.take(crew.receive(1))
        site.take(crew.hand_over(pipeline()))
    assert open_files() == before


def test_generations_are_freed(site: Site) -> None:
    """Of the plans before, neither program nor map stays."""
    before = open_files()
    for _ in range(5):
        site.program.use(site.program.compile(PASS_ALL))
    assert open_files() == before


class Hanging(Pipeline):
    """Stands still at certain frames."""

    def process(self, batch: FrameBatch) -> list[Evidence]:
        """Match, or wait for ever."""
        if b"hanging" in bytes(batch.buffer[batch.start[0] : batch.start[-1] + batch.caplen[-1]]):
            signal.pause()
        return super().process(batch)


def test_workers_that_hang_are_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a batch that they all hang at it is given up; what hangs while rules are handed over, too."""
    monkeypatch.setattr(sensor.live.worker_pool, "LOOK_S", 0.02)
    crew = site.crew(pipeline(Hanging), workers=1)
    quiet, busy = online_cpus()[-1], online_cpus()[0]
    site.feed(quiet, end=b"hanging")
    while not site.undecodable:
        site.take(crew.receive(0.01))
    assert crew.restarts >= MOST_DEATHS
    os.kill(site.workers[0], signal.SIGSTOP)
    site.feed(busy, 100)
    site.take(crew.hand_over(pipeline()))
    site.take(crew.drain())
    assert site.undecodable == 1
    assert_each_once(site, missing=1)


def test_a_worker_with_nothing_to_do_does_not_hang(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that is."""
    monkeypatch.setattr(sensor.live.worker_pool, "LOOK_S", 0)
    crew = site.crew(pipeline(), workers=1)
    site.take(crew.until_up())
    for _ in range(MOST_STILL * 3):
        site.take(crew.receive(0.001))
    assert crew.restarts == 0


def test_workers_that_cannot_start_are_the_end(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """After a few of them, with an error that says so."""
    ring = site.rings.rings[0]
    good, ring.fd = ring.fd, os.open(os.devnull, os.O_RDONLY)  # it cannot be mapped
    try:
        crew = site.crew(pipeline(), workers=1)
        with pytest.raises(SensorError, match="as soon as they were started"):
            site.take(crew.until_up())
    finally:
        os.close(ring.fd)
        ring.fd = good
    assert crew.restarts == MOST_STILLBORN
    assert "cannot be mapped" in capfd.readouterr().err


def test_workers_have_no_capabilities(site: Site) -> None:
    """They read what strangers sent."""
    site.take(site.crew(pipeline(), workers=1).until_up())
    status = Path(f"/proc/{site.workers[0]}/status").read_text()
    assert f"CapEff:\t{0:016x}\nCapBnd" in status
    assert f"CapPrm:\t{0:016x}\n" in status
