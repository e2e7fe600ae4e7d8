"""``sensor bench replay``: its sums are right, it names the limit, and it leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import in_network, in_session, wait_until

from sensor.bench.effort import ReplayEffort
from sensor.bench.html_report import report_page
from sensor.bench.kernel_sender import KernelSender
from sensor.bench.paced_capture import write_paced_capture
from sensor.bench.replay import SENSOR, Workload, measure
from sensor.bench.traffic.frames import write_capture
from sensor.bench.traffic.profiles import PROFILES, generate
from sensor.bench.trial import Rig
from sensor.bench.wire import looped_wire, private_wire
from sensor.capture.cpus import online_cpus
from sensor.counters import Counters

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "sensor", "bench", "replay", "--quick"]
SHORT = ReplayEffort(0.1, 1, 1)
SLOWED = (sys.executable, "-m", "bench.slow_sensor")


def no_step(_what: str) -> None:
    """Show no progress."""


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Write traffic with many matches."""
    write_capture(tmp_path / "traffic.pcap", generate(PROFILES["attack"], 1, 2000))
    return tmp_path / "traffic.pcap"


@contextmanager
def replaying(directory: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command in a session of its own, which identifies its processes."""
    with subprocess.Popen(
        [*COMMAND, "--directory", str(directory), *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process


@pytest.mark.timeout(300)
def test_figures_add_up(tmp_path: Path, capture: Path) -> None:
    """Every frame of a trial is in one bucket, the evidence is that of the file, and the page has plots."""
    (tmp_path / "out").mkdir()
    report = tmp_path / "report.html"
    with replaying(tmp_path / "out", str(capture), "--json", "--report", str(report)) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    found = json.loads(output)
    [row] = found["rows"]
    assert (row["traffic"], row["frames"], row["workers"]) == ("traffic.pcap", 2000, 1)
    assert row["evidence"]["found"] + row["evidence"]["lost"] >= row["evidence"]["expected"] > 500
    assert row["limited_by"] in ("generator", "wire", "matcher", "evidence", "index")
    assert row["generator_ceiling_pps"] > 0
    for trial in row["trials"]:
        counters = Counters(**trial["counters"])
        assert all(total == parts for _, _, total, parts in counters.equations())
        assert trial["sent"] == counters.seen + trial["losses"]["wire"]
        assert min(trial["cpu_us_per_frame"].values()) >= 0
    if row["zero_loss_pps"]:
        assert row["zero_loss_pps"] <= max(trial["offered_pps"] for trial in row["trials"])
        stages = {"workers", "supervisor", "indexer"}
        assert set(row["cpu_us_per_frame"]) == {"kernel", *stages, "whole_machine"}
        assert set(row["memory_mib"]) == stages
        assert row["zero_loss_gbps"] > 0
    assert report.read_text().count("<svg") >= 1
    assert "http" not in report.read_text().replace("http://www.w3.org/2000/svg", "")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("without_context")
def test_a_slow_matcher_is_the_limit(tmp_path: Path, capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a slow matcher the rate is lower, and the result says that the matcher limits it."""
    monkeypatch.setenv("SENSOR_BENCH_SLOW_US", "300")
    monkeypatch.chdir(ROOT)
    found = measure(
        [Workload("slow", [capture])], private_wire(), SHORT, no_step, directory=tmp_path, sensor=SLOWED
    )
    [row] = found["rows"]
    assert row["limited_by"] == "matcher"
    assert row["zero_loss_pps"] < row["generator_ceiling_pps"] / 2
    assert row["evidence"]["found"] == row["evidence"]["expected"]
    assert "slow" in report_page(found)


@pytest.mark.timeout(300)
def test_frames_sent_in_the_kernel(tmp_path: Path, capture: Path) -> None:
    """Frames are sent once, then over and over in new flows, with as many matches each time."""
    with private_wire() as wire:
        paced = write_paced_capture([capture], tmp_path, 1, wire.mtu)
        rig = Rig(
            SENSOR,
            wire,
            KernelSender(wire.source, paced.shares, [paced.frames]),
            1,
            online_cpus()[:1],
            tmp_path,
        )
        once, often = rig.run(None, 5000), rig.run(0.5, 20_000)
    assert (once.sent, once.losses) == (paced.frames, {"wire": 0, "matcher": 0, "evidence": 0})
    assert often.sent == 5 * once.sent
    assert often.counters.matched == 5 * once.counters.matched > 0
    assert once.sent_bytes == paced.octets


@pytest.mark.timeout(300)
def test_interfaces_of_the_host(tmp_path: Path, capture: Path, network: tuple[str, str]) -> None:
    """Two interfaces connected by a cable can be used instead of a private wire."""
    found = measure([Workload("cable", [capture])], looped_wire(*network), SHORT, no_step, directory=tmp_path)
    assert found["rows"][0]["evidence"]["expected"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_replay_leaves_nothing_behind(
    tmp_path: Path, capture: Path, number: signal.Signals
) -> None:
    """No process and no namespace of it remains, and no file unless it was killed."""
    (tmp_path / "out").mkdir()
    with replaying(tmp_path / "out", str(capture)) as process:
        wait_until(lambda: any("sensor run" in command for command in in_session(process.pid)))
        network = Path(f"/proc/{process.pid}/ns/net").readlink()
        process.send_signal(number)
        process.communicate()
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    wait_until(lambda: not in_session(process.pid))
    assert network != Path("/proc/self/ns/net").readlink()
    assert not in_network(network)
    if number != signal.SIGKILL:
        assert list((tmp_path / "out").iterdir()) == []


def test_one_end_of_a_cable_is_refused() -> None:
    """The error is a message, and the exit code is that of wrong settings."""
    done = subprocess.run([*COMMAND, "--interface", "eth1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--peer" in done.stderr
    assert "Traceback" not in done.stderr
