"""`sensor status`: the commands of docs/metrics.md, live, once and as JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from live import METRICS, SENSOR, TIMEOUT_S, ask_until, running
from metrics_runs import send

from sensor.metrics import catalogue as c

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]
Network = tuple[str, str]


def documented() -> list[str]:
    """Return the commands in docs/metrics.md."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    [block] = page.split("```sh\n")[1:]
    return [line.split(" #")[0].split()[1:] for line in block.split("```")[0].splitlines()]


def live_status(until: str) -> str:
    """Return what `sensor status` draws on a terminal until it has drawn a text."""
    leader, follower = os.openpty()
    process = subprocess.Popen([*SENSOR, "status"], stdout=follower, stderr=follower)
    os.close(follower)
    drawn = b""
    try:
        while until.encode() not in drawn:
            drawn += os.read(leader, 65536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # EIO: the process has closed the terminal
            while chunk := os.read(leader, 65536):
                drawn += chunk
        assert process.wait(TIMEOUT_S) == 130
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    return drawn.decode()


def test_the_commands_of_the_page_run(network: Network, tmp_path: Path) -> None:
    """`sensor status` works live, once and as JSON; without a sensor it fails with one line."""
    with running(network[0], tmp_path / "evidence") as run:
        sent = send(network, tmp_path)
        ask_until(lambda one: one.total(c.SEEN) == sent and one.total(c.IN_RING) == 0)
        for command in documented():
            if command == ["status"]:
                assert f"{sent:,}" in live_status("seen")
                continue
            done = subprocess.run([*SENSOR, *command], check=True, capture_output=True, text=True)
            shown = done.stdout
            if "--json" in command:
                found = json.loads(shown)
                assert found["state"] == "capturing"
                assert found["seen"]["frames"] == sent
                assert found["interfaces"][network[0]]["carrier"] is True
                assert found["interfaces"][network[0]]["seen"]["frames"] == sent
                assert found["index_complete"] is True
                assert found["evidence_files_replaced"] == 0
                assert found["flow_table"]["entries"] > 0
                assert found["events"]["--json"] == {
                    "connected": True,
                    "sent": sum(found["matches_by_class"].values()),
                    "waiting": 0,
                    "lost": 0,
                    "file_replaced": 0,
                }
                assert found["figures_missing"] == []
            else:
                assert f"{sent:,}" in shown
        assert run.stop() == 0
    done = subprocess.run([*SENSOR, "status"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sensor: no sensor answers at {METRICS} (Connection refused); start one")
    assert len(done.stderr.splitlines()) == 1
