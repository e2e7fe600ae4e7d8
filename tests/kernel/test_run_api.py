"""`sensor run` with its API process: evidence can be looked up moments after its capture."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from processes import wait_until

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.counters import Counters
from tests.api.api_samples import open_directory
from tests.live import replay, running, wait_until_received

PORT = 8321
MODERATE, REPLAYS = 4000, 3
"""Frames per second that a sensor on two CPUs keeps up with beside other work; times that they are sent."""

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]


def test_evidence_is_looked_up_while_it_is_captured(network: tuple[str, str], tmp_path: Path) -> None:
    """Evidence is found by the microsecond that the sensor prints; after its end the API is gone."""
    frames = mix.demo(seed=1).frames
    write_capture(tmp_path / "traffic.pcap", frames)
    with open_directory() as directory:
        with running(network[0], directory / "evidence", "--api", "--listen", "127.0.0.1:8321") as run:
            replay(network[1], tmp_path / "traffic.pcap")
            wait_until_received(network[0], len(frames))
            with httpx.Client(base_url="http://127.0.0.1:8321", trust_env=False) as client:

                def found() -> int:
                    try:
                        return len(client.get("/api/v1/evidence?limit=500").json()["items"])
                    except httpx.ConnectError:
                        return 0

                wait_until(lambda: found() > 100)
                [newest] = client.get("/api/v1/evidence?limit=1").json()["items"]
                looked_up = client.get(f"/evidence?time={newest['time_us']}&devid=3").json()
            assert run.stop() == 0
        assert newest["time_us"] in {match["time_us"] for match in run.matches}
        assert newest["sport"] in {packet["sport"] for packet in looked_up}
        with pytest.raises(httpx.ConnectError):
            httpx.get("http://127.0.0.1:8321/", trust_env=False)


def test_a_flooded_api_costs_no_frame(network: tuple[str, str], tmp_path: Path) -> None:
    """Two hundred hostile clients: each frame is in one bucket, none is lost, and lookups are answered."""
    frames = mix.demo(seed=1).frames
    write_capture(tmp_path / "traffic.pcap", frames)
    send = partial(replay, network[1], tmp_path / "traffic.pcap", pps=MODERATE)
    flags = ("--api", "--listen", f"127.0.0.1:{PORT}")
    with open_directory() as directory, running(network[0], directory / "evidence", *flags) as run:
        send()
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", trust_env=False, timeout=60) as client:
            wait_until(lambda: newest_us(client))
            path = f"/evidence?time={newest_us(client)}&devid=3"
            with flooded(), ThreadPoolExecutor(1) as sender:
                sent = [sender.submit(send) for _ in range(REPLAYS)]
                answers = [client.get(path)]
                while not all(one.done() for one in sent):
                    answers.append(client.get(path))
        wait_until_received(network[0], (1 + REPLAYS) * len(frames))
        assert run.stop() == 0
    assert {answer.status_code for answer in answers} == {200}
    counters = Counters(**run.counters)
    assert [equation for equation in counters.equations() if equation[2] != equation[3]] == []
    assert counters.seen == (1 + REPLAYS) * len(frames)
    assert counters.matched == counters.written + counters.suppressed > 0
    assert counters.in_ring == counters.submit_failed == counters.write_failed == 0
    assert counters.sampled == counters.restarts == 0


@contextmanager
def flooded() -> Iterator[None]:
    """Let hostile clients keep the API busy."""
    flood = [sys.executable, "-m", "sensor.bench.hostile_clients", str(PORT)]
    with subprocess.Popen(flood, stdout=subprocess.PIPE, text=True) as clients:
        try:
            assert clients.stdout
            assert clients.stdout.readline() == "begun\n"
            yield
        finally:
            clients.kill()


def newest_us(client: httpx.Client) -> int:
    """Return the time of the newest evidence; 0 while there is none."""
    try:
        items = client.get("/api/v1/evidence?limit=1").json()["items"]
    except httpx.ConnectError:
        return 0
    return int(items[0]["time_us"]) if items else 0
