"""A real Prometheus scrapes a real sensor: every rule and every panel has data, and loss is what was lost."""

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
    """Run the program with the files as they are shipped, but for the intervals."""
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
    """Ask Prometheus' HTTP API."""
    url = f"{URL}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - a constant scheme
        return json.load(answer)["data"]


def query(expression: str) -> list[dict[str, Any]]:
    """The series that an expression gives now."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return list(get("query", query=expression)["result"])


def number(expression: str) -> float | None:
    """The value of an expression that gives one series; None: it gives none."""
    found = query(expression)
    return float(found[0]["value"][1]) if found else None


def wait_until(is_so: Callable[[], object]) -> None:
    """Ask until it is so; Prometheus may not have scraped, or not even started, yet."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            if is_so():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"never so; targets: {get('targets')}")


def expressions() -> dict[str, str]:
    """Every expression of every panel, and every recorded series, by where it stands."""
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
    """Those that give nothing, or something that is no number."""
    results = {place: query(expression) for place, expression in expressions().items()}
    return [
        place
        for place, series in results.items()
        if not series or any(one["value"][1] == "NaN" for one in series)
    ]


def send_until_all_have_data(network: Network, directory: Path) -> int:
    """Replay the demo's traffic until every expression has data; how many frames that took."""
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
    """Send candidates to a sensor whose worker is stopped: those that the ring cannot hold are lost."""
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
    """The alerts of this name that fire."""
    alerts = get("alerts")["alerts"]
    return [one for one in alerts if one["labels"]["alertname"] == name and one["state"] == "firing"]


def test_everything_has_data_and_loss_is_what_was_lost(network: Network, tmp_path: Path) -> None:
    """First traffic that is no trouble, then more than the smallest ring can hold."""
    with prometheus(tmp_path), running(network[0], tmp_path / "evidence", "--ring-mib", "1") as run:
        sent = send_until_all_have_data(network, tmp_path)
        before = number("sum(sensor_undecodable_frames_total)")
        assert number("sum(sensor_submit_failed_frames_total)") == 0
        assert firing("SensorLosesFrames") == []
        assert number("instance:sensor_loss:ratio_rate1m") == 0

        burst(network, tmp_path, run, sent)
        wait_until(
            lambda: (
                number("sum(sensor_seen_frames_total)") == sent + BURST
                and number("sensor_in_ring_frames") == 0
                and firing("SensorLosesFrames")
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
        # An alert says what it saw when it was evaluated last.
        said = f"a ring was full, {lost:.0f} candidates lost since the start"
        wait_until(
            lambda: any(said in alert["annotations"]["summary"] for alert in firing("SensorLosesFrames"))
        )
        law = [expression for place, expression in expressions().items() if "The law" in place]
        assert [number(line) for line in law] == [0, 0, 0, 0]
        assert run.stop() == 0
        assert run.counters["submit_failed"] == lost
        wait_until(lambda: number('up{job="sensor"}') == 0)
