"""A real Prometheus scrapes a real sensor: all rules and panels have data, and losses are exact."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from live import TIMEOUT_S, Run, replay, running, wait_until_received

from dashboards.__main__ import DASHBOARDS, FILES
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import Frame, write_capture

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]
Network = tuple[str, str]
SHIPPED = FILES.parent
URL = "http://127.0.0.1:9090"
BURST = 3000
VARIABLES = {"$host": ".+", "$interface": ".+", "$__rate_interval": "1m", "$__range": "1m"}


@contextmanager
def prometheus(directory: Path) -> Iterator[None]:
    """Run Prometheus with the shipped files, but with shorter intervals."""
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(path) for path in (SHIPPED / "rules").glob("*.yml")]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copytree(SHIPPED / "targets", directory / "targets")
    flags = [
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        "--web.listen-address=127.0.0.1:9090",
    ]
    with (
        (directory / "prometheus.log").open("w") as log,
        subprocess.Popen(["prometheus", *flags], stderr=log, stdout=log) as process,
    ):
        try:
            yield
        finally:
            process.kill()


def get(path: str, **parameters: str) -> Any:
    """Query the HTTP API of Prometheus."""
    url = f"{URL}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - a constant scheme
        return json.load(answer)["data"]


def query(expression: str) -> list[dict[str, Any]]:
    """Return the series of an expression, as of now."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return list(get("query", query=expression)["result"])


def number(expression: str) -> float | None:
    """Return the value of an expression with one series; None if there is none."""
    found = query(expression)
    return float(found[0]["value"][1]) if found else None


def wait_until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds; errors are ignored, as Prometheus may not have started yet."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            if holds():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"the condition did not become true; targets: {get('targets')}")


def expressions() -> dict[str, str]:
    """Return all expressions of panels and recording rules by their place."""
    found = {}
    for name in DASHBOARDS:
        for panel in json.loads((FILES / f"{name}.json").read_text())["panels"]:
            for target in panel["targets"]:
                found[f"{name}: {panel['title']}: {target['legendFormat']}"] = target["expr"]
    recording = yaml.safe_load((SHIPPED / "rules" / "sensor-recording.yml").read_text())
    for rule in recording["groups"][0]["rules"]:
        found[f"rule: {rule['record']}"] = rule["record"]
    return found


def empty() -> list[str]:
    """Return the places of expressions without data, or with NaN."""
    results = {place: query(expression) for place, expression in expressions().items()}
    return [
        place
        for place, series in results.items()
        if not series or any(one["value"][1] == "NaN" for one in series)
    ]


def send_until_all_have_data(network: Network, directory: Path) -> int:
    """Replay the demo's traffic until every expression has data; return the number of frames sent."""
    frames = mix.demo(seed=1).frames
    write_capture(directory / "traffic.pcap", frames)
    sent = 0

    def all_have_data() -> bool:
        nonlocal sent
        replay(network[1], directory / "traffic.pcap", pps=4000)
        sent += len(frames)
        return not empty()

    try:
        wait_until(all_have_data)
    except AssertionError as error:
        raise AssertionError(f"without data: {empty()}") from error
    wait_until_received(network[0], sent)
    return sent


def burst(network: Network, directory: Path, run: Run, received: int) -> None:
    """Send candidates while the workers are stopped; those that do not fit into the ring are lost."""
    frame = b"\2" * 6 + b"\4" * 6 + b"\x12\x34" + bytes(1400)
    write_capture(directory / "burst.pcap", [Frame(1_700_000_000_000_000, frame)] * BURST)
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    names = {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in children}
    workers = [pid for pid, name in names.items() if name.startswith("sensor-worker")]
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    replay(network[1], directory / "burst.pcap")
    wait_until_received(network[0], received + BURST)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)


def firing(name: str) -> list[dict[str, Any]]:
    """Return the firing alerts with this name."""
    return [one for one in active(name) if one["state"] == "firing"]


def active(name: str) -> list[dict[str, Any]]:
    """Return the alerts with this name that fire, or will if their cause lasts."""
    return [one for one in get("alerts")["alerts"] if one["labels"]["alertname"] == name]


def test_everything_has_data_and_losses_are_exact(network: Network, tmp_path: Path) -> None:
    """First traffic that fits, then a burst that exceeds the smallest ring."""
    with prometheus(tmp_path), running(network[0], tmp_path / "evidence", "--ring-mib", "1") as run:
        sent = send_until_all_have_data(network, tmp_path)
        before = number("sum(sensor_undecodable_frames_total)")
        assert number("sum(sensor_submit_failed_frames_total)") == 0
        assert active("SensorLosesFrames") == firing("SensorLostFrames") == []
        assert number("instance:sensor_loss:ratio_rate1m") == 0

        burst(network, tmp_path, run, sent)
        wait_until(
            lambda: (
                number("sum(sensor_seen_frames_total)") == sent + BURST
                and number("sensor_in_ring_frames") == 0
                and active("SensorLosesFrames")
                and firing("SensorLostFrames")
                and firing("SensorRingNearFull")
                and number("instance:sensor_ring_loss:ratio_rate1m")
                and number("instance:sensor_loss:ratio_rate1m")
            )
        )
        lost = number("sum(sensor_submit_failed_frames_total)")
        read = number("sum(sensor_undecodable_frames_total)")
        assert lost is not None
        assert read is not None
        assert before is not None
        assert lost == BURST - (read - before) > 0
        assert (
            query(expressions()["throughput: Lost since the start: ring full"])[0]["value"][1]
            == f"{lost:.0f}"
        )
        # The summary of an alert has the value of the last evaluation.
        summary = f"a ring was full, {lost:.0f} candidates lost since the start"
        wait_until(
            lambda: any(summary in alert["annotations"]["summary"] for alert in firing("SensorLostFrames"))
        )
        law = [expression for place, expression in expressions().items() if "The law" in place]
        assert [number(line) for line in law] == [0, 0, 0, 0, 0]
        assert run.stop() == 0
        assert run.counters["submit_failed"] == lost
        wait_until(lambda: number('up{job="sensor"}') == 0)
