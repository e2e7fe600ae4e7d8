"""Worker processes on real rings die, lie, are replaced and drained; each frame counts once."""

from __future__ import annotations

import os
import random
import signal
import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from live import PASS_ALL
from worker_site import Site, assert_each_once, pipeline

from sensor import native
from sensor.capture.cpus import online_cpus
from sensor.errors import SensorError
from sensor.live.report_channel import MESSAGE, SLOT_BYTES, Kind, ReportChannel
from sensor.live.worker_pool import MOST_DEATHS_AT_START
from sensor.process import sandbox

pytestmark = pytest.mark.kernel

TIMES = 25


def open_files() -> list[str]:
    """Return what the descriptors of this process refer to."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this listing
            found.append(str(descriptor.readlink()).partition(":[")[0])
    return sorted(found)


def test_no_frame_is_skipped_after_deaths_with_empty_rings(site: Site) -> None:
    """The next batch is read, however many workers were killed before it, and the sensor does not end."""
    pool = site.start_workers(pipeline(), workers=1)
    for deaths in range(1, MOST_DEATHS_AT_START + 3):
        site.add(pool.until_started())
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
