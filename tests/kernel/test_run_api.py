"""`sensor run` with its API process: evidence can be looked up moments after its capture."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from processes import wait_until

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from tests.api.api_samples import open_directory
from tests.live import replay, running, wait_until_received

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
