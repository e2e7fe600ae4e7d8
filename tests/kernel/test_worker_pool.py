"""Worker processes on real rings die, hang, are replaced and drained; each frame counts once.

BPF_PROG_TEST_RUN on a CPU puts frames into its ring, so no interface is needed.
"""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import numpy as np
import pytest
from frames import IPV4, UDP, ethernet, ipv4, udp
from live import PASS_ALL

import sensor.live.worker_pool
from sensor import native
from sensor.capture.cpus import online_cpus
from sensor.capture.program import Program
from sensor.capture.ring import RingSet
from sensor.capture.syscalls import prog_test_run
from sensor.errors import SensorError
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.explain_block import explained
from sensor.live.report_channel import MESSAGE, SLOT_BYTES, Kind, ReportChannel
from sensor.live.worker_pool import MOST_DEATHS, MOST_DEATHS_AT_START, WorkerPool
from sensor.live.worker_process import MOST_STALLED_CHECKS
from sensor.model import FrameBatch, Rule
from sensor.pipeline import BatchReport, Pipeline
from sensor.process import sandbox
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.engine.matcher import Matcher

pytestmark = pytest.mark.kernel

RULE = Rule(1, "threat", "t", "n", "number")
TIMES = 25


class Deadly(Pipeline):
    """A pipeline that kills the process at certain frames, as a bug in a library might."""

    def process(self, batch: FrameBatch) -> EvidenceBlock:
        """Match the batch, or kill the process."""
        ends = (batch.start + batch.caplen).tolist()
        if any(batch.buffer[end - 6 : end] == b"deadly" for end in ends):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().process(batch)


class Site:
    """A program with a ring on every CPU, and the sums of what its workers report."""

    def __init__(self, stack: ExitStack) -> None:
        self.program = stack.enter_context(closing(Program(PASS_ALL)))
        self.rings = stack.enter_context(closing(RingSet.open(1 << 20)))
        self.program.connect(self.rings.rings)
        self._stack = stack
        self.fed = self.read = self.undecodable = 0
        self.found: list[bytes] = []

    def start_workers(self, pipeline: Pipeline, workers: int) -> WorkerPool:
        """Start workers that are killed at the end of the test."""
        pool = WorkerPool(pipeline, self.rings.rings, workers, {socket.if_nametoindex("lo")})
        self._stack.callback(pool.kill)
        return pool

    def feed(self, cpu: int, count: int = 1, end: bytes = b"") -> None:
        """Put frames into the ring of a CPU; every frame has its own number."""
        os.sched_setaffinity(0, {cpu})
        for _ in range(count):
            payload = b"number %d %b" % (self.fed, end)
            prog_test_run(
                self.program.fd, ethernet(IPV4, ipv4(UDP, udp(payload, sport=self.fed % 60_000 + 1)))
            )
            self.fed += 1
        os.sched_setaffinity(0, online_cpus())

    def add(self, reports: Iterable[BatchReport]) -> None:
        """Add reports to the sums."""
        for report in reports:
            self.read += report.read
            self.undecodable += report.undecodable
            if report.block:
                self.found += [item.payload for item in explained(report.block, RFC9110)]

    def kill_worker(self, number: int = 0) -> None:
        """Kill a worker, as the kernel does when memory is short."""
        os.kill(self.workers[number], signal.SIGKILL)

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers, in order."""
        return [int(child) for child in Path("/proc/thread-self/children").read_text().split()]


@pytest.fixture
def site() -> Iterator[Site]:
    """Load the program; workers end with the test."""
    with ExitStack() as stack:
        yield Site(stack)


def pipeline(kind: type[Pipeline] = Pipeline) -> Pipeline:
    """Return a pipeline with one rule that matches every packet of a flow."""
    return kind(Matcher([RULE]), "any", "thorough")


def open_files() -> list[str]:
    """Return what the descriptors of this process refer to."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this listing
            found.append(str(descriptor.readlink()).partition(":[")[0])
    return sorted(found)


def assert_each_once(site: Site, *, missing: int = 0) -> None:
    """Assert that every frame was read once, and all but ``missing`` became evidence once."""
    assert site.read == site.fed
    assert site.rings.waiting() == 0
    assert len(site.found) == len(set(site.found)) == site.fed - missing


def test_a_deadly_batch_is_skipped(site: Site) -> None:
    """After MOST_DEATHS deaths its frames count as undecodable; other rings are matched meanwhile."""
    pool = site.start_workers(pipeline(Deadly), workers=1)
    quiet, busy = online_cpus()[-1], online_cpus()[0]
    site.feed(quiet, end=b"deadly")
    while not site.undecodable:
        site.feed(busy)
        site.add(pool.receive(0.01))
    assert pool.restarts == MOST_DEATHS
    site.feed(quiet, 100)
    site.add(pool.drain())
    assert site.undecodable == 1
    assert_each_once(site, missing=1)


def test_no_frame_is_skipped_after_deaths_with_empty_rings(site: Site) -> None:
    """The next batch is read, however many workers died before it."""
    pool = site.start_workers(pipeline(), workers=1)
    for deaths in range(1, MOST_DEATHS + 3):
        site.kill_worker()
        while pool.restarts < deaths:
            site.add(pool.receive(1))
    site.feed(0, 10)
    site.add(pool.drain())
    assert_each_once(site)


def test_a_worker_dies_while_the_rings_are_drained(site: Site) -> None:
    """Another worker drains them, at whatever moment the first one dies."""
    for _ in range(TIMES):
        pool = site.start_workers(pipeline(), workers=2)
        for cpu in online_cpus():
            site.feed(cpu, 200)
        site.kill_worker()
        site.add(pool.drain())
        assert pool.restarts == 1
        assert_each_once(site)


def test_a_worker_dies_while_rules_are_handed_over(site: Site) -> None:
    """Its successor has the new rules, as all others have."""
    pool = site.start_workers(pipeline(), workers=2)
    for number in range(TIMES):
        for cpu in online_cpus():
            site.feed(cpu, 50)
        site.kill_worker(number % 2)
        site.add(pool.hand_over(pipeline()))
        assert len(site.workers) == 2
        while site.read < site.fed:  # or after three deaths frames would be skipped
            site.add(pool.receive(1))
    site.add(pool.drain())
    assert 0 < pool.restarts <= TIMES
    assert_each_once(site)


def test_signals_right_after_the_start(site: Site) -> None:
    """Stop signals and a terminal's signals: nothing is lost, and no worker seems to have died."""
    for _ in range(TIMES):
        pool = site.start_workers(pipeline(), workers=2)
        site.feed(0, 10)
        for worker in site.workers:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(worker, number)
        site.add(pool.hand_over(pipeline()))
        site.add(pool.drain())
        assert pool.restarts == 0
        assert_each_once(site)


def test_nothing_stays_open(site: Site) -> None:
    """After many deaths and many reloads as many descriptors are open as before."""
    pool = site.start_workers(pipeline(), workers=2)
    before = open_files()
    for number in range(TIMES):
        site.kill_worker(number % 2)
        while pool.restarts <= number:
            site.add(pool.receive(1))
        site.add(pool.hand_over(pipeline()))
    assert open_files() == before


def test_generations_are_freed(site: Site) -> None:
    """No program or map of an earlier plan stays open."""
    before = open_files()
    for _ in range(5):
        site.program.use(site.program.compile(PASS_ALL))
    assert open_files() == before


LIES: dict[str, dict[str, int | float]] = {
    "a kind that is none": {"kind": 77},
    "the ring of another worker": {"cpu": 4095},
    "a tail beyond the kernel's head": {"tail": 1 << 62},
    "a tail inside a record": {"tail": 4},
    "more frames than fit": {"read": 1 << 31, "unmatched": (1 << 31) - 1},
    "frames that do not add up": {"unmatched": 5},
    "no end of payloads cut": {"cut": 1 << 31},
    "a slot that is none": {"slot": 7},
    "a block beyond the slot": {"records_bytes": SLOT_BYTES},
    "more items than were written": {"items": 1000},
    "more matches than were written": {"rules": 300},
    "a fill that is no number": {"fill": float("nan")},
    "a time that is none": {"match_ns": (1 << 64) - 1},
    "to have stopped": {"kind": Kind.STOPPED},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_worker_that_lies_is_replaced(
    site: Site, lie: dict[str, int | float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A field out of its bounds costs that worker its life, and nothing else: the others go on."""
    liar, honest = online_cpus()[0], online_cpus()[-1]
    send = socket.socket.send

    def lying(self: socket.socket, data: bytes, flags: int = 0) -> int:
        message = np.frombuffer(data, MESSAGE).copy() if len(data) == MESSAGE.itemsize else None
        if message is not None and message["kind"][0] == Kind.REPORT and message["cpu"][0] == liar:
            for name, value in lie.items():
                message[name] = value
            data = message.tobytes()
        return send(self, data, flags)

    class LyingSocket(socket.socket):
        send = lying  # type: ignore[assignment]

    connect = ReportChannel.enter_worker

    def enter_worker(channel: ReportChannel) -> None:
        connect(channel)
        channel._worker = LyingSocket(fileno=channel._worker.detach())

    monkeypatch.setattr(ReportChannel, "enter_worker", enter_worker)
    pool = site.start_workers(pipeline(), workers=2)
    site.add(pool.until_started())
    site.feed(liar, 3)
    site.feed(honest, 50)
    while pool.restarts < 1 or len(site.found) < 50:
        site.add(pool.receive(0.01))
    assert "sent a malformed report and is killed" in caplog.text
    monkeypatch.undo()
    before = pool.restarts
    for worker in site.workers:
        os.kill(worker, signal.SIGKILL)
    while pool.restarts < before + 2:
        site.add(pool.receive(0.01))
    site.feed(liar, 10)
    site.add(pool.drain())
    assert_each_once(site)  # what it released without a report is read again


@pytest.mark.parametrize("tail", [0, 4, 1 << 62])
def test_a_worker_that_moves_the_tail_of_its_ring(
    site: Site, tail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loses no frame that it has not reported, and its successors can read the ring."""
    original = ReportChannel.send

    def send(channel: ReportChannel, kind: Kind) -> None:
        if kind is Kind.STARTED:
            for ring in site.rings.rings:
                mapped = ring.remap()  # held, or its memory would be unmapped
                native.store_release(mapped._tail_address, tail)
            os.kill(os.getpid(), signal.SIGKILL)
        original(channel, kind)

    site.feed(0, 20)
    monkeypatch.setattr(sandbox, "enter", lambda *_, **__: None)
    monkeypatch.setattr(ReportChannel, "send", send)
    pool = site.start_workers(pipeline(), workers=1)
    monkeypatch.undo()
    while pool.restarts < 1:
        site.add(pool.receive(0.01))
    site.add(pool.drain())
    assert_each_once(site)


@pytest.mark.parametrize("size", [0, 1, MESSAGE.itemsize - 1, MESSAGE.itemsize + 1, 100_000])
def test_garbage_on_the_channel(site: Site, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datagrams of other sizes, and blocks of random bytes, cost the worker its life."""
    original = ReportChannel.send

    def talk(channel: ReportChannel, kind: Kind) -> None:
        original(channel, kind)
        if kind is Kind.STARTED:
            channel._slots[:] = np.frombuffer(random.Random(size).randbytes(1 << 20), np.uint8)[0]
            channel._worker.send(random.Random(size).randbytes(size))

    monkeypatch.setattr(ReportChannel, "send", talk)
    pool = site.start_workers(pipeline(), workers=1)
    while pool.restarts < 1:
        site.add(pool.receive(0.01))
    monkeypatch.undo()
    before = pool.restarts
    site.kill_worker()
    while pool.restarts == before:
        site.add(pool.receive(0.01))
    site.feed(0, 10)
    while site.read < site.fed:
        site.add(pool.receive(0.01))
    site.add(pool.drain())
    assert_each_once(site)


def test_a_worker_that_floods_the_channel(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a batch that never ends are not collected for ever."""
    original = ReportChannel.send

    def talk(channel: ReportChannel, kind: Kind) -> None:
        original(channel, kind)
        message = np.zeros(1, MESSAGE)
        message["kind"] = Kind.PART
        with suppress(OSError):
            while kind is Kind.STARTED:
                channel._worker.send(message.tobytes())

    monkeypatch.setattr(ReportChannel, "send", talk)
    pool = site.start_workers(pipeline(), workers=1)
    while pool.restarts < 1:
        site.add(pool.receive(0.01))


class Hanging(Pipeline):
    """A pipeline that hangs at certain frames."""

    def process(self, batch: FrameBatch) -> EvidenceBlock:
        """Match the batch, or wait for ever."""
        if b"hanging" in bytes(batch.buffer[batch.start[0] : batch.start[-1] + batch.caplen[-1]]):
            signal.pause()
        return super().process(batch)


def test_workers_that_hang_are_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that hangs every worker is skipped; a worker that hangs during a reload is replaced."""
    monkeypatch.setattr(sensor.live.worker_pool, "CHECK_S", 0.02)
    pool = site.start_workers(pipeline(Hanging), workers=1)
    quiet, busy = online_cpus()[-1], online_cpus()[0]
    site.feed(quiet, end=b"hanging")
    while not site.undecodable:
        site.add(pool.receive(0.01))
    assert pool.restarts >= MOST_DEATHS
    os.kill(site.workers[0], signal.SIGSTOP)
    site.feed(busy, 100)
    site.add(pool.hand_over(pipeline()))
    site.add(pool.drain())
    assert site.undecodable == 1
    assert_each_once(site, missing=1)


def test_a_worker_with_nothing_to_do_does_not_hang(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle worker is not killed, however long it is idle."""
    monkeypatch.setattr(sensor.live.worker_pool, "CHECK_S", 0)
    pool = site.start_workers(pipeline(), workers=1)
    site.add(pool.until_started())
    for _ in range(MOST_STALLED_CHECKS * 3):
        site.add(pool.receive(0.001))
    assert pool.restarts == 0


def test_the_sensor_ends_if_workers_cannot_start(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """After MOST_DEATHS_AT_START workers, with an error that says so."""
    ring = site.rings.rings[0]
    good, ring.fd = ring.fd, os.open(os.devnull, os.O_RDONLY)  # cannot be mapped
    try:
        pool = site.start_workers(pipeline(), workers=1)
        with pytest.raises(SensorError, match="as soon as they were started"):
            site.add(pool.until_started())
    finally:
        os.close(ring.fd)
        ring.fd = good
    assert pool.restarts == MOST_DEATHS_AT_START
    assert "cannot be mapped" in capfd.readouterr().err


def test_workers_have_no_capabilities(site: Site) -> None:
    """Workers parse untrusted bytes, so they drop all capabilities."""
    site.add(site.start_workers(pipeline(), workers=1).until_started())
    status = Path(f"/proc/{site.workers[0]}/status").read_text()
    assert f"CapEff:\t{0:016x}\nCapBnd" in status
    assert f"CapPrm:\t{0:016x}\n" in status
