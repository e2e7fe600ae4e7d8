"""Slow workers are left alone; stopped, frozen and hanging ones are replaced, and no frame suffers for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from freezer import freezer, freezers
from processes import wait_until
from worker_site import Site, assert_each_once, pipeline

import sensor.live.worker
import sensor.live.worker_pool
from sensor.capture.cpus import online_cpus
from sensor.live.heartbeat import Sign
from sensor.live.stall_detector import MOST_STILL_CHECKS, StallDetector
from sensor.model import FrameBatch
from sensor.pipeline import Pipeline, Turn
from sensor.process.child import FunctionProcess, finish

pytestmark = pytest.mark.kernel

CPU = online_cpus()[0]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check workers many times per second."""
    monkeypatch.setattr(sensor.live.worker_pool, "CHECK_S", 0.05)


def stop(process: int) -> None:
    """Stop a process, and wait until it has stopped."""
    os.kill(process, signal.SIGSTOP)
    os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOWAIT)


@pytest.mark.parametrize("work", ["some", "none yet"])
def test_a_stopped_worker_is_replaced(site: Site, work: str) -> None:
    """Its successor matches what it has not reported."""
    pool = site.start_workers(pipeline(), workers=1)
    site.add(pool.until_started())
    if work == "some":
        site.feed(CPU, 1000)
    stop(site.workers[0])
    site.feed(CPU, 1000)
    site.add_until(pool, lambda: pool.restarts and site.read == site.fed)
    site.add(pool.drain())
    assert pool.restarts == 1
    assert_each_once(site)


def test_workers_are_stopped_again_and_again(site: Site) -> None:
    """A successor goes on where the reports end, wherever the worker before it was stopped."""
    pool = site.start_workers(pipeline(), workers=2)
    for number in range(10):
        for cpu in online_cpus():
            site.feed(cpu, 200)
        stop(site.workers[number % 2])
        site.add_until(pool, lambda: site.read == site.fed)  # the other one may read on meanwhile
    site.add(pool.drain())
    assert_each_once(site)


def test_a_stopped_worker_without_work_is_left_alone(site: Site) -> None:
    """It is killed when frames arrive, and not before."""
    pool = site.start_workers(pipeline(), workers=1)
    site.add(pool.until_started())
    stop(site.workers[0])
    until_s = time.monotonic() + 20 * sensor.live.worker_pool.CHECK_S
    site.add_until(pool, lambda: time.monotonic() > until_s)
    assert pool.restarts == 0


@pytest.mark.parametrize("signal_number", [sensor.live.worker.DRAIN, sensor.live.worker.HAND_OVER])
def test_a_worker_stops_while_it_is_to_end(site: Site, signal_number: signal.Signals) -> None:
    """Neither a reload nor the end of the sensor waits for it."""
    pool = site.start_workers(pipeline(), workers=1)
    site.add(pool.until_started())
    stop(site.workers[0])
    site.feed(CPU, 100)
    site.add(pool.hand_over(pipeline()) if signal_number == sensor.live.worker.HAND_OVER else pool.drain())
    site.add(pool.drain())
    assert pool.restarts == 1
    assert_each_once(site)


@pytest.mark.parametrize("version", freezers())
def test_a_frozen_worker_is_replaced(site: Site, version: str) -> None:
    """A process frozen by version 1 cannot even be killed: its ring goes to another one all the same."""
    pool = site.start_workers(pipeline(), workers=1)
    site.add(pool.until_started())
    with freezer(version) as group:
        frozen = site.workers[0]
        group.freeze(frozen)
        site.feed(CPU, 1000)
        site.add_until(pool, lambda: site.read == site.fed)
        assert pool.restarts == 1
        assert (frozen in site.workers) == (version == "v1")
        group.thaw()
        site.add_until(pool, lambda: frozen not in site.workers)
    site.feed(CPU, 1000)
    site.add(pool.drain())
    assert pool.restarts == 1
    assert_each_once(site)


@pytest.mark.skipif("v1" not in freezers(), reason="this host has no freezer of version 1")
def test_workers_that_cannot_be_killed_are_few(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel holds each worker in turn, no further one is started before one has ended."""
    monkeypatch.setattr(sensor.live.worker_pool, "MOST_UNREAPED", 2)
    pool = site.start_workers(pipeline(), workers=1)
    with freezer("v1") as group:
        for number in range(3):
            site.add(pool.until_started())
            group.freeze(site.workers[-1])
            site.feed(CPU)
            if number < 2:
                site.add_until(pool, lambda known=number + 1: pool.restarts == known)
        until_s = time.monotonic() + 20 * sensor.live.worker_pool.CHECK_S
        site.add_until(pool, lambda: time.monotonic() > until_s)
        assert (pool.restarts, len(site.workers)) == (2, 3)
        group.thaw()
        site.add_until(pool, lambda: site.read == site.fed)
    site.add(pool.drain())
    assert_each_once(site)


class Slow(Pipeline):
    """A pipeline that takes many checks for a batch, in stages of some checks each."""

    def turns(self, batch: FrameBatch, turn_ns: int = 0) -> Iterator[Turn]:
        """Match the batch, slowly."""
        for _ in range(10):
            time.sleep(sensor.live.worker_pool.CHECK_S * (MOST_STILL_CHECKS - 2))
            self.beat()
        return super().turns(batch, turn_ns)


def test_a_slow_worker_is_left_alone(site: Site) -> None:
    """A worker that gives signs of life is not killed, however long it takes for a batch."""
    pool = site.start_workers(pipeline(Slow), workers=1)
    site.feed(CPU, 100)
    site.add(pool.drain())
    assert pool.restarts == 0
    assert_each_once(site)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_end_in_time(site: Site, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a turn is over, what was matched is reported and released, so that a death costs no more."""
    monkeypatch.setattr(sensor.live.worker, "TURN_NS", -1_000_000_000)  # each turn has one payload
    pool = site.start_workers(pipeline(), workers=workers)
    for number in range(5):
        for cpu in online_cpus():
            site.feed(cpu, 200)
        reports = site.reports
        site.add_until(pool, lambda known=reports: site.reports > known + 20)
        site.kill_worker(number % workers)
    site.add(pool.drain())
    assert site.reports == site.fed
    assert_each_once(site)


def sleep() -> None:
    """Do nothing until the process is killed."""
    while True:
        signal.pause()


def work() -> None:
    """Use CPU time until the process is killed."""
    while True:
        pass


def sign(beats: int) -> Sign:
    """Return the sign of a worker that reads a ring."""
    return Sign(beats, 0, CPU)


def test_checks_are_counted_not_seconds() -> None:
    """A worker is not to blame for the time in which the supervisor made no check."""
    child = FunctionProcess(sleep, (), "child")
    detector = StallDetector(child.pid)
    time.sleep(0.1)  # it sleeps by now
    found = [detector.check(sign(1), 1, has_work=True) for _ in range(MOST_STILL_CHECKS + 1)]
    finish(child)
    assert found[:-1] == [None] * MOST_STILL_CHECKS
    assert "stands still" in str(found[-1])


@pytest.mark.parametrize("event", ["sign", "report", "no work"])
def test_what_ends_a_stall(event: str) -> None:
    """A sign of life, a report, and a ring without frames."""
    child = FunctionProcess(sleep, (), "child")
    detector = StallDetector(child.pid)
    for number in range(10 * MOST_STILL_CHECKS):
        is_due = number % (MOST_STILL_CHECKS - 1) == 0
        beats, reports = (number if event == kind and is_due else 0 for kind in ("sign", "report"))
        assert not detector.check(sign(beats), reports, has_work=event != "no work")
    finish(child)


def test_a_worker_that_gets_little_cpu_time_is_left_alone() -> None:
    """It is slow, as long as it has used less CPU time than a sign of life takes."""
    child = FunctionProcess(work, (), "child")
    detector = StallDetector(child.pid)
    clock = ~child.pid << 3 | 2
    for _ in range(5 * MOST_STILL_CHECKS):
        used_ns = time.clock_gettime_ns(clock)
        os.kill(child.pid, signal.SIGCONT)
        wait_until(lambda known=used_ns: time.clock_gettime_ns(clock) > known)
        os.kill(child.pid, signal.SIGSTOP)
        assert not detector.check(sign(1), 1, has_work=True)
    finish(child)
