"""CPUs that go down and come up while `sensor run` captures."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from live import ask_until, replay, running
from test_run import Network, assert_law
from worker_site import RING_BYTES, Site, pipeline

from sensor.abi import Loss
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.capture import ring_set
from sensor.capture.hotplug import RingKeeper
from sensor.metrics import catalogue as c

SWITCH = Path("/sys/devices/system/cpu/cpu1/online")
FRAMES = 500

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.usefixtures("use_few_rules"),
    pytest.mark.skipif(not SWITCH.exists(), reason="CPU 1 cannot be switched off here"),
]


@contextmanager
def cpu_down() -> Iterator[None]:
    """Switch CPU 1 off. One test at a time may do that, of all that run on this host."""
    with Path(tempfile.gettempdir(), "sensor-tests-hotplug.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            SWITCH.write_text("0")
            yield
        finally:
            SWITCH.write_text("1")


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    """Write traffic to a file."""
    path = tmp_path / "traffic.pcap"
    write_capture(path, mix.demo(seed=1).frames[:FRAMES])
    return path


def test_a_cpu_that_goes_down_and_comes_back(network: Network, traffic: Path, tmp_path: Path) -> None:
    """Its ring works again, twice in a row, with the same worker; nothing is lost or counted twice."""
    with running(network[0], tmp_path / "evidence", "--workers", "2") as run:
        workers = run.wait_for_workers(2)
        replay(network[1], traffic, cpu=1)
        for times in (2, 3):
            with cpu_down():
                pass
            replay(network[1], traffic, cpu=1)
            ask_until(lambda figures, times=times: figures.total(c.SEEN) == times * FRAMES)
        assert run.workers == workers
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed, counters.restarts) == (3 * FRAMES, 0, 0)
    assert sum("CPU 1 was down and is back" in line for line in run.log) == 2


def test_a_cpu_that_comes_up_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets a ring of its own, and a worker reads it; frames before that are lost for want of a ring."""
    with ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(
                ring_set, "online_cpus", lambda: [0]
            )  # a start with CPU 1 down disturbs other tests
            site = Site(stack)
        keeper = stack.enter_context(closing(RingKeeper(site.program, site.rings, RING_BYTES)))
        pool = site.start_workers(pipeline(), workers=1)
        site.add(pool.until_started())
        site.feed(1, 5)
        assert site.program.losses()[Loss.NO_RING] == 5
        rings = keeper.missing()
        assert [ring.cpu for ring in rings] == [1]
        site.add(pool.add_rings(rings))
        site.rings.add(rings)
        site.program.connect(rings)
        assert keeper.missing() == []
        site.feed(0, 20)
        site.feed(1, 20)
        site.add(pool.drain())
        assert (site.read, len(set(site.found)), pool.restarts) == (40, 40, 0)
        assert sum(site.program.losses().values()) == 5


def test_a_cpu_that_was_down_unnoticed(site: Site) -> None:
    """The losses of its ring betray it, should its uevent have been missed."""
    with closing(RingKeeper(site.program, site.rings, RING_BYTES)) as keeper:
        site.feed(1, 3)
        with cpu_down():
            pass
        site.feed(1, 2)
        assert site.program.losses()[Loss.NO_RING] == 2
        assert keeper.check() == [1]
        assert keeper.check() == []
        site.feed(1, 4)
        assert site.program.losses()[Loss.NO_RING] == 2
    assert site.rings.waiting() == 7
