"""`sensor run` on a hostile host: whatever stops its workers, no frame is lost, given up or counted twice."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import live
import pytest
from disturbed_sensor import CHECK_S
from frames import IPV4, TCP, ethernet, ipv4, tcp
from freezer import Freezer, freezer, freezers
from live import METRICS, Run, ask_until, replay, running, wait_until_received
from processes import is_running, wait_until
from test_run import Network, assert_law, comparable, frames_of, read_of
from test_workers import ALL_KEPT, assert_evidence_of, write

from sensor.bench.traffic import mix
from sensor.metrics import catalogue as c

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules", "without_context")]

KILL_EVERY_S = 0.5
SECONDS = 6


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    """Write the demo's traffic several times over."""
    return write(tmp_path / "traffic.pcap", [frame.data for frame in mix.demo(seed=1).frames] * 5)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sensor check its workers often, and die of deadly frames."""
    monkeypatch.setattr(
        live, "SENSOR", [sys.executable, str(Path(__file__).with_name("disturbed_sensor.py"))]
    )


@contextmanager
def again_and_again(disturb: Callable[[], object], every_s: float) -> Iterator[None]:
    """Call a function at intervals, in a thread."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_s):
            disturb()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def slowly(path: Path) -> int:
    """Return the rate at which a capture lasts for `SECONDS`."""
    return len(frames_of([path])) // SECONDS


@pytest.mark.parametrize(
    ("workers", "flags"),
    [
        (2, ()),
        (1, ("--profile", "thorough")),
        (1, ("--keep", "flow")),
        (1, ("--profile", "ly_probe")),
    ],
    ids=["two workers", "thorough", "flow", "ly_probe"],
)
def test_a_worker_is_killed_every_half_second(
    network: Network, tmp_path: Path, traffic: Path, workers: int, flags: tuple[str, ...]
) -> None:
    """No frame is put aside or counts as undecodable, and the evidence is that of `sensor read`."""
    total = len(frames_of([traffic]))
    with running(network[0], tmp_path / "live", "--workers", str(workers), *flags, *ALL_KEPT) as run:
        run.wait_for_workers(workers)
        kills = []

        def kill() -> None:
            for worker in run.workers[:1]:
                os.kill(worker, signal.SIGKILL)
                kills.append(worker)

        with again_and_again(kill, KILL_EVERY_S):
            replay(network[1], traffic, pps=slowly(traffic))
        wait_until_received(network[0], total)
        assert run.stop() == 0
    assert len(set(kills)) >= SECONDS / KILL_EVERY_S / 2
    assert_nothing_given_up(run, total)
    assert_evidence_of(run, traffic, tmp_path, *flags, *ALL_KEPT)


def assert_nothing_given_up(run: Run, total: int) -> None:
    """Assert that all frames of the demo were seen and matched; all of them can be decoded."""
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed, counters.in_ring) == (total, 0, 0)
    assert (counters.undecodable, counters.quarantined) == (0, 0)


@pytest.mark.usefixtures("often")
def test_workers_are_stopped_under_traffic(network: Network, tmp_path: Path, traffic: Path) -> None:
    """Each is replaced; its successor goes on where the reports end."""
    total = len(frames_of([traffic]))
    with running(network[0], tmp_path / "live", *ALL_KEPT) as run:
        run.wait_for_workers(1)
        stopped: set[int] = set()

        def stop() -> None:
            for worker in set(run.workers[:1]) - stopped:
                os.kill(worker, signal.SIGSTOP)
                stopped.add(worker)

        with again_and_again(stop, 1):
            replay(network[1], traffic, pps=slowly(traffic))
        wait_until_received(network[0], total)
        assert run.stop() == 0
    assert len(stopped) > 2
    assert_nothing_given_up(run, total)
    assert_evidence_of(run, traffic, tmp_path, *ALL_KEPT)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("version", freezers())
def test_a_frozen_sensor(network: Network, tmp_path: Path, traffic: Path, version: str) -> None:
    """If supervisor and workers are frozen together, no worker is to blame when they go on."""
    total = len(frames_of([traffic]))
    with freezer(version) as group, running(network[0], tmp_path / "live", *ALL_KEPT) as run:
        workers = run.wait_for_workers(1)
        with again_and_again(lambda: freeze_for(group, [run.process.pid, *run.workers], 10 * CHECK_S), 0.5):
            replay(network[1], traffic, pps=slowly(traffic))
        wait_until_received(network[0], total)
        assert run.workers == workers
        assert run.stop() == 0
    assert assert_law(run).restarts == 0
    assert_nothing_given_up(run, total)
    assert_evidence_of(run, traffic, tmp_path, *ALL_KEPT)


def freeze_for(group: Freezer, processes: list[int], seconds: float) -> None:
    """Freeze processes for a time in which, if they ran, many checks would be made."""
    for process in processes:
        group.freeze(process)
    threading.Event().wait(seconds)
    group.thaw()


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("version", freezers())
def test_the_end_does_not_wait_for_a_frozen_worker(
    network: Network, tmp_path: Path, traffic: Path, version: str
) -> None:
    """Another worker drains the rings, also if the frozen one cannot be killed before it is thawed."""
    total = len(frames_of([traffic]))
    with freezer(version) as group, running(network[0], tmp_path / "live", *ALL_KEPT) as run:
        [worker] = run.wait_for_workers(1)
        group.freeze(worker)
        replay(network[1], traffic)
        wait_until_received(network[0], total)
        run.process.send_signal(signal.SIGINT)
        wait_until(lambda: run.process.poll() is not None)
        assert is_running(worker) == (version == "v1")
        group.thaw()
        assert run.wait() == 0  # the log is open as long as any process is there
    assert assert_law(run).restarts == 1
    assert_nothing_given_up(run, total)
    assert_evidence_of(run, traffic, tmp_path, *ALL_KEPT)


@pytest.mark.usefixtures("often")
def test_deadly_frames(network: Network, tmp_path: Path, traffic: Path) -> None:
    """Each has a file and counts in a bucket of its own; the frames around them are matched."""
    frames = frames_of([traffic])
    deadly = [
        ethernet(IPV4, ipv4(TCP, tcp(b"GET / HTTP/1.1 number %d deadly" % number))) for number in range(3)
    ]
    whole = list(frames)
    for number, frame in enumerate(deadly):
        whole.insert(len(whole) * number // 3, frame)
    path = write(tmp_path / "whole.pcap", whole)
    flags = ("--profile", "thorough", *ALL_KEPT)
    with running(network[0], tmp_path / "live", "--metrics", METRICS, *flags) as run:
        replay(network[1], path, pps=slowly(path))
        wait_until_received(network[0], len(whole))
        ask_until(lambda figures: figures.total(c.QUARANTINED) == len(deadly))
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.seen, counters.quarantined, counters.undecodable) == (len(whole), len(deadly), 0)
    kept = sorted((tmp_path / "live").glob("*/quarantine/*.pcap"))
    assert frames_of(kept) == deadly
    assert all(any(str(file) in line for line in run.log) for file in kept)
    matches, files = read_of(traffic, tmp_path / "read", *flags)
    assert sorted(frames_of(run.files)) == sorted(frames_of(files))
    assert comparable(run.matches) == comparable(matches)
