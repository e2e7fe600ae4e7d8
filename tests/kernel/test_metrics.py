"""Metrics of a real sensor: complete from the start, exact, and available when things go wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from live import METRICS, PASS_ALL, SENSOR, TIMEOUT_S, Run, ask_until, replay, running, wait_until_received
from prometheus_client.registry import CollectorRegistry

from sensor import abi
from sensor.bench.private_network import veth_pair
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.capture.attachment import find_interface
from sensor.capture.program import Program
from sensor.evidence.search import EvidenceSearch, Query
from sensor.metrics import catalogue as c
from sensor.metrics.collector import SensorCollector
from sensor.metrics.exporter import build_info
from sensor.metrics.figure_source import FigureSource
from sensor.metrics.figures import Figures, ask
from sensor.metrics.snapshot import SnapshotBoard
from sensor.metrics.talkers import MOST_TALKERS
from sensor.metrics.tally import MATCH_CLASSES
from sensor.model import RULE_CLASSES

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]
Network = tuple[str, str]
ON_DEMAND = {c.OLDEST, c.INDEX_COMMITTED}
"""Metrics that are absent until there is evidence."""


def child(run: Run, name: str) -> int:
    """Return the process id of the sensor's child with this name; wait for it."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
        for pid in children:
            with suppress(FileNotFoundError):  # it has ended
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    return int(pid)
    raise AssertionError(f"no {name}")


def send(network: Network, directory: Path) -> int:
    """Replay the demo's traffic; return its number of frames."""
    frames = mix.demo(seed=1).frames
    write_capture(directory / "traffic.pcap", frames)
    replay(network[1], directory / "traffic.pcap")
    wait_until_received(network[0], len(frames))
    return len(frames)


def values(figures: Figures, metric: c.Metric, label: str) -> set[str]:
    """Return the values of a label."""
    name = metric.written_name + ("_bucket" if metric.kind == "histogram" else "")
    return {labels[label] for labels, _ in figures.samples[name]}


def test_every_series_is_there_from_the_start(network: Network, tmp_path: Path) -> None:
    """Each metric of the catalogue exists with all its label values; counters are zero before any traffic."""
    with running(network[0], tmp_path):
        figures = ask_until(lambda figures: figures.state == "capturing")
    for metric in set(c.METRICS) - ON_DEMAND:
        name = metric.written_name + ("_count" if metric.kind == "histogram" else "")
        assert figures.samples.get(name), name
        assert set(figures.samples[name][0][0]) == set(metric.labels)
    cpus = {str(cpu) for cpu in os.sched_getaffinity(0)}
    assert values(figures, c.IGNORED, "reason") == set(c.REASONS)
    assert values(figures, c.SEEN, "cpu") >= cpus
    assert values(figures, c.EVIDENCE, "outcome") == set(c.OUTCOMES)
    assert values(figures, c.MATCHES, "rule_class") == set(MATCH_CLASSES)
    assert values(figures, c.RULES, "rule_class") == set(RULE_CLASSES)
    assert values(figures, c.MATCHED, "interface") == values(figures, c.LOST, "interface") == {network[0]}
    assert values(figures, c.READ, "cpu") == values(figures, c.SEEN, "cpu")
    assert values(figures, c.FLOWS_BEGUN, "place") == {"unused", "own", "over", "evicted", "nowhere"}
    assert values(figures, c.EVIDENCE_MATCHES, "rule_class") == set(MATCH_CLASSES)
    assert values(figures, c.DELETED_FILES, "reason") == {"age", "size", "free"}
    assert figures.total(c.SEEN) == figures.total(c.READ) == figures.total(c.MATCHES) == 0
    assert figures.by("source", c.SOURCE_UP) == dict.fromkeys(c.SOURCES, 1)
    assert figures.total(c.WORKERS_ALIVE) == figures.total(c.WORKERS) == 1


def test_metrics_agree_with_the_traffic(network: Network, tmp_path: Path) -> None:
    """The law of the counters holds, and they agree with the sensor's final counters and the index."""
    evidence = tmp_path / "evidence"
    (evidence / "3").mkdir(parents=True)
    (evidence / "3" / "200001010000.pcap").write_bytes(bytes(24))
    with running(network[0], evidence, "--retain-days", "1") as run:
        sent = send(network, tmp_path)
        figures = ask_until(
            lambda one: (
                one.total(c.SEEN) == sent
                and one.total(c.IN_RING) == one.total(c.INDEX_WAITING) == 0
                and one.total(c.INDEX_COMPLETE)
                and one.total(c.DELETED_FILES)
            )
        )
        assert run.stop() == 0

    def total(metric: c.Metric) -> float:
        found = figures.total(metric)
        assert found is not None
        return found

    assert total(c.SEEN) == total(c.IGNORED) + total(c.SUBMITTED) + total(c.LOST)
    assert total(c.SEEN_BYTES) == total(c.IGNORED_BYTES) + total(c.SUBMITTED_BYTES) + total(c.LOST_BYTES)
    assert total(c.SUBMITTED) == total(c.READ)
    assert total(c.READ) == total(c.UNDECODABLE) + total(c.UNMATCHED) + total(c.MATCHED)
    assert total(c.MATCHED) == total(c.EVIDENCE) > 0
    assert figures.by("reason", c.IGNORED) == run.counters["ignored"]
    assert {name: figures.total(c.EVIDENCE, outcome=name) for name in c.OUTCOMES} == {
        name: run.counters[name] for name in c.OUTCOMES
    }
    classes = [match["class"] for match in run.matches]
    assert figures.by("rule_class", c.MATCHES) == {name: classes.count(name) for name in MATCH_CLASSES}
    assert figures.by("rule_class", c.EVIDENCE_MATCHES) == figures.by("rule_class", c.MATCHES)
    assert figures.total(c.EVIDENCE_MATCHES, outcome="written") == total(c.MATCHES)
    rules = [str(match["rule"]) for match in run.matches]
    assert figures.by("rule", c.RULE_MATCHES) == {rule: rules.count(rule) for rule in rules} | {"other": 0}
    assert total(c.RECEIVED) == sent
    assert figures.samples["sensor_match_duration_seconds_count"][0][1] == total(c.READ)
    assert total(c.OLDEST) % 300 == 0
    stored = list(EvidenceSearch(evidence).iterate(Query()))
    assert total(c.INDEX_ROWS) == len(stored) == total(c.MATCHED)
    assert 0 <= time.time() - total(c.INDEX_COMMITTED) < TIMEOUT_S
    senders = Counter(one.five_tuple.source_text for one in stored)
    talkers = figures.by("address", c.TALKERS)
    assert talkers.pop("other") == len(stored) - sum(talkers.values()) > 0
    assert len(talkers) == MOST_TALKERS
    assert talkers == {address: senders[address] for address in talkers}
    assert figures.by("reason", c.DELETED_FILES) == {"age": 1, "size": 0, "free": 0}
    assert figures.by("reason", c.DELETED_BYTES) == {"age": 24, "size": 0, "free": 0}
    flows = figures.by("place", c.FLOWS_BEGUN)
    assert flows["unused"] == total(c.FLOW_ENTRIES) > 100
    assert flows["evicted"] == flows["over"] == 0


def test_each_interface_has_its_own_counters(network: Network, tmp_path: Path) -> None:
    """Every counter of the kernel is per interface, in whatever order they were given."""
    veth_pair("mirror2", "source2")
    counters = (c.SEEN, c.IGNORED, c.SUBMITTED, c.LOST)
    with running("mirror2", tmp_path / "evidence", "-i", network[0]) as run:
        sent = send(network, tmp_path)
        first = ask_until(lambda one: one.total(c.SEEN) == sent)
        replay("source2", tmp_path / "traffic.pcap")
        both = ask_until(lambda one: one.total(c.SEEN) == 2 * sent)
        assert run.stop() == 0
    assert [first.total(counter, interface="mirror2") for counter in counters] == [0, 0, 0, 0]
    seen, ignored, submitted, lost = (both.total(counter, interface="mirror2") for counter in counters)
    assert seen == ignored + submitted + lost == sent
    assert [both.total(counter, interface=network[0]) for counter in counters] == [
        first.total(counter) for counter in counters
    ]


def test_promtool_accepts_the_metrics(network: Network, tmp_path: Path) -> None:
    """Promtool checks names, units, help and types."""
    with running(network[0], tmp_path), socket.create_connection(("127.0.0.1", 9321)) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with client.makefile("rb") as answer:
            text = answer.read().partition(b"\r\n\r\n")[2]
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_a_port_in_use_is_refused(network: Network, tmp_path: Path) -> None:
    """The error comes before anything is attached, and has the fix."""
    command = [*SENSOR, "run", "-i", network[0], "--evidence", str(tmp_path), "--no-api"]
    with socket.create_server(("127.0.0.1", 9321)):
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "sensor: cannot serve metrics at 127.0.0.1:9321: Address already in use; "
        "choose another address with --metrics, or turn them off with --metrics ''"
    )
    assert find_interface(network[0]).xdp_program_id is None


def test_metrics_can_be_turned_off(network: Network, tmp_path: Path) -> None:
    """Nothing listens, and everything else works."""
    with running(network[0], tmp_path, "--metrics", "") as run:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 9321))
        assert run.stop() == 0


def test_silent_clients_do_no_harm(network: Network, tmp_path: Path) -> None:
    """They delay neither the next scrape nor the end."""
    with running(network[0], tmp_path) as run:
        idle = [socket.create_connection(("127.0.0.1", 9321)) for _ in range(20)]
        ask_until(lambda figures: figures.state == "capturing")
        assert run.stop() == 0
        for one in idle:
            one.close()


def test_a_supervisor_that_hangs_is_noticed(network: Network, tmp_path: Path) -> None:
    """The kernel's counters keep growing, the heartbeat stops."""
    with running(network[0], tmp_path / "evidence") as run:
        ask_until(lambda figures: figures.state == "capturing")
        run.process.send_signal(signal.SIGSTOP)
        sent = send(network, tmp_path)
        first = ask(METRICS)
        assert first.total(c.SEEN) == sent
        assert ask(METRICS).total(c.HEARTBEAT) == first.total(c.HEARTBEAT)
        run.process.send_signal(signal.SIGCONT)
        ask_until(lambda figures: figures.total(c.HEARTBEAT) != first.total(c.HEARTBEAT))
        assert run.stop() == 0


def test_metrics_are_served_while_the_sensor_drains(network: Network, tmp_path: Path) -> None:
    """The state is draining, and the figures are complete."""
    with running(network[0], tmp_path / "evidence") as run:
        worker = child(run, "sensor-worker0")
        os.kill(worker, signal.SIGSTOP)
        sent = send(network, tmp_path)
        run.process.send_signal(signal.SIGINT)
        figures = ask_until(lambda figures: figures.state == "draining")
        assert figures.total(c.SEEN) == sent
        assert figures.total(c.IN_RING) == figures.total(c.SUBMITTED)
        os.kill(worker, signal.SIGCONT)
        assert run.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 9321))


def held(process: int) -> list[str]:
    """Return what a process has open, except sockets and standard streams."""
    links = {fd.name: str(fd.readlink()) for fd in Path(f"/proc/{process}/fd").iterdir()}
    return [name for fd, name in links.items() if int(fd) > 2 and not name.startswith("socket:")]


def test_the_exporter_is_replaced_when_it_dies(network: Network, tmp_path: Path) -> None:
    """It and its successor have only the map open that they read: no link, no lock, no pipe."""
    with running(network[0], tmp_path) as run:
        first = child(run, "sensor-metrics")
        ask_until(lambda figures: figures.state == "capturing")
        assert [name for name in held(first) if "bpf-map" in name] == held(first)
        os.kill(first, signal.SIGKILL)
        assert run.process.stderr
        assert any("the exporter died" in line for line in run.process.stderr)
        ask_until(lambda figures: figures.state == "capturing")
        assert len(held(child(run, "sensor-metrics"))) == 1
        assert run.stop() == 0
    assert find_interface(network[0]).xdp_program_id is None


def test_reloads_are_counted(network: Network, tmp_path: Path) -> None:
    """A failed reload keeps the old rules and marks them as stale; a successful one clears the mark."""
    rules = tmp_path / "rules"
    rules.mkdir()

    def write(regex: str) -> None:
        rule = {"1": {"type": "T", "name": "hello", "protocol": "udp", "port": 7, "regex": regex}}
        (rules / "threat.json").write_text(json.dumps({"threat": {"rules": rule}}))

    write("^hello")
    with running(network[0], tmp_path / "evidence", "--rules", str(rules)) as run:
        before = ask_until(lambda figures: figures.state == "capturing")
        assert (before.total(c.STALE), before.by("rule_class", c.RULES)["threat"]) == (0, 1)
        write("(")
        run.process.send_signal(signal.SIGHUP)
        stale = ask_until(lambda figures: figures.total(c.STALE))
        assert stale.total(c.LOADS_FAILED) == 1
        assert stale.by("digest", c.RULES_INFO) == before.by("digest", c.RULES_INFO)
        write("^world")
        run.process.send_signal(signal.SIGHUP)
        now = ask_until(
            lambda figures: figures.by("digest", c.RULES_INFO) != before.by("digest", c.RULES_INFO)
        )
        assert (now.total(c.STALE), now.total(c.LOADS_FAILED)) == (0, 1)
        assert now.samples["sensor_rules_load_duration_seconds_count"][0][1] == 2
        assert run.stop() == 0


def test_worker_deaths_are_counted(network: Network, tmp_path: Path) -> None:
    """Restarts and running workers are right after a kill."""
    with running(network[0], tmp_path) as run:
        ask_until(lambda figures: figures.state == "capturing")
        os.kill(child(run, "sensor-worker0"), signal.SIGKILL)
        figures = ask_until(lambda one: one.total(c.RESTARTS) == 1)
        assert figures.total(c.WORKERS_ALIVE) == 1


def test_unreadable_metrics_are_absent(tmp_path: Path) -> None:
    """If program, interface and directory are gone, their metrics are absent, not zero."""
    program = Program(PASS_ALL)
    registry = CollectorRegistry()
    source = FigureSource(
        SnapshotBoard().reader(),
        program.counters_by_cpu,
        ["nosuch0"],
        tmp_path / "none",
        local_time=False,
    )
    SensorCollector(source, build_info(), {}, registry)
    name = "sensor_source_up"
    assert registry.get_sample_value(name, {"source": "kernel"}) == 1
    program.close()
    for gone in ("kernel", "supervisor", "rings", "interfaces", "evidence"):
        assert registry.get_sample_value(name, {"source": gone}) == 0
    assert registry.get_sample_value(name, {"source": "softnet"}) == 1
    assert {family.name for family in registry.collect() if family.samples} == {
        family.removesuffix("_total") for family in ("sensor_build_info", name)
    } | {"sensor_softnet_dropped_frames", "sensor_softnet_squeezed"}


def test_loss_is_exact(network: Network, tmp_path: Path) -> None:
    """Losses are exact in frames and bytes, and the fill of the ring shows why."""
    frame = b"\2" * 6 + b"\4" * 6 + b"\x12\x34" + bytes(1400)
    write_capture(tmp_path / "burst.pcap", [Frame(1_700_000_000_000_000, frame)] * 3000)
    with running(network[0], tmp_path / "evidence", "--ring-mib", "1") as run:
        worker = child(run, "sensor-worker0")
        os.kill(worker, signal.SIGSTOP)
        replay(network[1], tmp_path / "burst.pcap")
        wait_until_received(network[0], 3000)
        full = ask(METRICS)
        os.kill(worker, signal.SIGCONT)
        figures = ask_until(lambda one: one.total(c.IN_RING) == 0)
        assert run.stop() == 0
    read, lost = figures.total(c.READ), figures.total(c.LOST)
    assert read is not None
    assert lost == run.counters["submit_failed"] == 3000 - read > 0
    assert figures.total(c.LOST_BYTES) == lost * len(frame)
    assert max(full.by("cpu", c.RING_FILL).values()) > 0.9
    buckets = {labels["le"]: value for labels, value in figures.samples["sensor_ring_backlog_ratio_bucket"]}
    assert buckets["+Inf"] > buckets["0.9"]


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
                assert found["flow_table"]["entries"] > 0
                assert found["events"]["--json"] == {
                    "connected": True,
                    "sent": sum(found["matches_by_class"].values()),
                    "waiting": 0,
                    "lost": 0,
                }
                assert found["figures_missing"] == []
            else:
                assert f"{sent:,}" in shown
        assert run.stop() == 0
    done = subprocess.run([*SENSOR, "status"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sensor: no sensor answers at {METRICS} (Connection refused); start one")
    assert len(done.stderr.splitlines()) == 1


def test_the_reasons_are_those_of_the_kernel() -> None:
    """Each reason of the kernel is a label value."""
    assert len(c.REASONS) == len(abi.IGNORED) == len(set(c.REASONS))
