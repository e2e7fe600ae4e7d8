"""Metrics of a real sensor: complete from the start, exact, and available when things go wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from live import METRICS, TIMEOUT_S, ask_until, replay, running, wait_until_received
from metrics_runs import child, send

from sensor import abi
from sensor.bench.private_network import veth_pair
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.evidence.retention import LIMIT_NAMES
from sensor.evidence.search import EvidenceSearch, Query
from sensor.metrics import catalogue as c
from sensor.metrics.figures import Figures, ask
from sensor.metrics.metric import Metric
from sensor.metrics.talkers import MOST_TALKERS
from sensor.metrics.tally import MATCH_CLASSES
from sensor.model import RULE_CLASSES, Role

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]
Network = tuple[str, str]
ON_DEMAND = {c.OLDEST, c.INDEX_COMMITTED, c.RETENTION, c.CERTIFICATES}
"""Metrics that are absent until there is evidence, or while settings are unset."""


def values(figures: Figures, metric: Metric, label: str) -> set[str]:
    """Return the values of a label."""
    name = metric.written_name + ("_bucket" if metric.kind == "histogram" else "")
    return {labels[label] for labels, _ in figures.samples[name]}


def test_every_series_is_there_from_the_start(network: Network, tmp_path: Path) -> None:
    """Each metric of the catalogue exists with all its label values; counters are zero before any traffic."""
    with running(network[0], tmp_path):
        figures = ask_until(
            lambda figures: figures.state == "capturing" and figures.total(c.API_UP) is not None
        )
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
    assert values(figures, c.DELETED_FILES, "limit") == set(LIMIT_NAMES)
    assert figures.total(c.SEEN) == figures.total(c.READ) == figures.total(c.MATCHES) == 0
    assert figures.by("source", c.SOURCE_UP) == dict.fromkeys(c.SOURCES, 1)
    assert figures.total(c.WORKERS_ALIVE) == figures.total(c.WORKERS) == 1


def test_metrics_agree_with_the_traffic(network: Network, tmp_path: Path) -> None:
    """The law of the counters holds, and they agree with the sensor's final counters and the index."""
    evidence = tmp_path / "evidence"
    (evidence / "3").mkdir(parents=True)
    two_days_ago = time.gmtime((time.time() // 300 - 2 * 288) * 300)  # a clock of any kind is believed
    (evidence / "3" / time.strftime("%Y%m%d%H%M.pcap", two_days_ago)).write_bytes(bytes(24))
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

    def total(metric: Metric) -> float:
        found = figures.total(metric)
        assert found is not None
        return found

    assert total(c.SEEN) == total(c.IGNORED) + total(c.SUBMITTED) + total(c.LOST)
    assert total(c.SEEN_BYTES) == total(c.IGNORED_BYTES) + total(c.SUBMITTED_BYTES) + total(c.LOST_BYTES)
    assert total(c.SUBMITTED) == total(c.READ)
    assert total(c.READ) == total(c.UNDECODABLE) + total(c.UNMATCHED) + total(c.MATCHED) + total(c.CONTEXT)
    assert total(c.CONTEXT) + total(c.RECALLED) == total(c.EVIDENCE_CONTEXT)
    assert total(c.CONVERSATIONS) > 0
    assert figures.by("fate", c.HISTORY)["kept"] == run.counters["remembered"] > 0
    assert 0 < total(c.HISTORY_REACH) < 600
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
    context = figures.total(c.EVIDENCE_CONTEXT, outcome="written")
    assert context
    assert total(c.INDEX_ROWS) == len(stored) == total(c.MATCHED) + context
    assert 0 <= time.time() - total(c.INDEX_COMMITTED) < TIMEOUT_S
    stored = [one for one in stored if one.role == Role.HIT]
    senders = Counter(one.five_tuple.source_text for one in stored)
    talkers = figures.by("address", c.TALKERS)
    assert talkers.pop("other") == len(stored) - sum(talkers.values()) > 0
    assert len(talkers) == MOST_TALKERS
    assert talkers == {address: senders[address] for address in talkers}
    assert figures.by("limit", c.DELETED_FILES) == dict.fromkeys(LIMIT_NAMES, 0) | {"age": 1}
    assert figures.by("limit", c.DELETED_BYTES) == dict.fromkeys(LIMIT_NAMES, 0) | {"age": 24}
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


def test_the_reasons_are_those_of_the_kernel() -> None:
    """Each reason of the kernel is a label value."""
    assert len(c.REASONS) == len(abi.IGNORED) == len(set(c.REASONS))
