"""``sensor bench kernel`` and ``ring`` measure the real programs and account for every frame they send."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture

pytestmark = pytest.mark.kernel

SENSOR = [sys.executable, "-m", "sensor"]
BUCKETS = {
    "syn": "ignored_no_payload",
    "bare_ack": "ignored_no_payload",
    "other_port": "ignored_prefix",
    "cut_off_flow": "ignored_flow",
    "no_prefix": "ignored_prefix",
    "vlan": "ignored_flow",
    "ipv6": "ignored_flow",
    "udp": "ignored_prefix",
}


def bench(*arguments: str) -> dict[str, Any]:
    """Run a measurement, and return its result."""
    command = [*SENSOR, "bench", *arguments, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Measure with our own rules."""
    return bench("kernel", "--quick")


def test_kernel_measures_every_kind_beside_xdp_filter(found: dict[str, Any]) -> None:
    """With our own rules, each frame ends in the bucket its kind names."""
    assert {row["kind"]: row["bucket"] for row in found["kinds"]} == BUCKETS
    for row in found["kinds"]:
        assert row["ns"] > found["empty_program_ns"] > 0
        assert row["xdp_filter_ns"] > found["empty_program_ns"]
        assert row["ratio_spread"]["least"] <= row["ratio_to_xdp_filter"] <= row["ratio_spread"]["most"]
    assert found["median_ratio_to_xdp_filter"] > 0
    assert found["candidate_ns"] > found["empty_program_ns"]


def test_kernel_prints_the_memory_of_the_maps(found: dict[str, Any]) -> None:
    """The total is the sum of all maps, and twice as many flows need twice the memory."""
    memory = found["memory"]
    assert sum(memory["maps"].values()) == memory["bytes"] == memory["bytes_by_flows"][str(memory["flows"])]
    (few, small), (many, large), *_ = ((int(n), size) for n, size in memory["bytes_by_flows"].items())
    assert large / small == pytest.approx(many / few, rel=0.1)


def test_kernel_finds_frames_that_rules_ignore_and_ask_for(tmp_path: Path) -> None:
    """Rules that ask for TLS and not for HTTP are measured as well, with another payload."""
    texts = [r"^\x17\x03\x03", *(rf"^\x00\xfe{number:04}" for number in range(300))]
    rules = {
        str(60_000 + number): {"type": "t", "name": "n", "regex": text} for number, text in enumerate(texts)
    }
    (tmp_path / "threat.json").write_text(json.dumps({"threat": {"priority": 1, "rules": rules}}))
    found = bench("kernel", "--quick", "--rules", str(tmp_path))
    assert {row["kind"]: row["bucket"] for row in found["kinds"]} == BUCKETS
    assert found["candidate_ns"] > found["empty_program_ns"]


def test_kernel_refuses_rules_that_leave_nothing_to_ignore(tmp_path: Path) -> None:
    """With a rule for any TCP payload, the frames that should be ignored are candidates."""
    rule = {"type": "t", "name": "n", "protocol": "tcp", "regex": "anything"}
    (tmp_path / "threat.json").write_text(json.dumps({"threat": {"priority": 1, "rules": {"60001": rule}}}))
    command = [*SENSOR, "bench", "kernel", "--quick", "--rules", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "sensor: frames of kind other_port are candidates with these rules" in done.stderr


@pytest.mark.usefixtures("use_few_rules")
def test_kernel_without_xdp_tools_prints_how_to_install_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ratios are null; everything else is measured."""
    from sensor.bench import xdp_filter
    from sensor.bench.kernel import measure
    from sensor.cli.bench_output import kernel_lines
    from sensor.config.settings import BUNDLED_RULES

    monkeypatch.setattr(xdp_filter, "_LIBRARIES", tmp_path)
    found = measure(BUNDLED_RULES, quick=True, step=lambda _: None)
    assert found["median_ratio_to_xdp_filter"] is None
    assert {row["ratio_to_xdp_filter"] for row in found["kinds"]} == {None}
    assert "apt install xdp-tools" in "\n".join(kernel_lines(found))


def test_kernel_counts_the_decisions_for_a_capture(tmp_path: Path) -> None:
    """Every frame is in one bucket, and all frames that match a rule are candidates."""
    traffic = mix.demo(seed=1)
    write_capture(tmp_path / "capture.pcap", traffic.frames)
    found = bench("kernel", "--capture", str(tmp_path / "capture.pcap"))
    assert found["frames"] == len(traffic.frames) == found["candidates"] + sum(found["ignored"].values())
    assert found["share"] == pytest.approx(found["candidates"] / found["frames"], abs=1e-4)
    assert len(traffic.expected) <= found["candidates"] < found["frames"] / 2
    assert found["ignored"].keys() == {"no_payload", "not_ip", "flow", "prefix"}


def test_kernel_refuses_a_capture_without_ethernet(tmp_path: Path) -> None:
    """A capture of bare IP packets is refused, and the message says why."""
    capture = tmp_path / "raw.pcap"
    write_capture(capture, mix.demo(seed=1).frames[:3])
    content = bytearray(capture.read_bytes())
    content[20] = 101  # LINKTYPE_RAW
    capture.write_bytes(content)
    command = [*SENSOR, "bench", "kernel", "--capture", str(capture)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 7
    assert "XDP sees only Ethernet frames" in done.stderr


@pytest.mark.usefixtures("use_few_rules")
@pytest.mark.timeout(300)
def test_ring_accounts_for_every_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every stage the frames sent are the sum of the buckets; nothing is left behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = bench("ring", "--quick")
    assert found["frame_bytes"] == 442
    reading = found["reading"]
    assert reading["cpu_us_a_record"]["least"] > 0
    assert reading["bcc_cpu_us_a_record"]["least"] > 0
    assert reading["ratio_to_bcc"]["least"] > 0
    assert [row["reader"] for row in reading["live"]] == ["sensor", "bcc"]
    for row in reading["live"]:
        assert row["sent"] >= row["seen"] == row["read"] + row["lost"] > 0
    for row in found["through_match"]:
        assert row["sent"] == row["lost_on_wire"] + row["seen"]
        assert row["seen"] == row["ignored"] + row["lost_in_ring"] + row["read"]
        assert row["read"] == row["undecodable"] + row["unmatched"] + row["sampled"] + row["matched"]
        assert row["unmatched"] == row["read"] > 0
        assert row["is_without_loss"] == (row["lost_in_ring"] == row["lost_on_wire"] == 0)
        assert min(row["through_per_second"].values()) > 0
        assert min(cost["least"] for cost in row["cpu_us_a_frame"].values()) > 0
    assert found["through_match"][0]["workers"] == 1
    assert list(tmp_path.iterdir()) == []
