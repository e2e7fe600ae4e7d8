"""The exporter of a running sensor: served, refused, hung, killed, and unreadable."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from live import METRICS, PASS_ALL, SENSOR, TIMEOUT_S, ask_until, running
from metrics_runs import child, send
from processes import wait_until
from prometheus_client.registry import CollectorRegistry

from sensor.capture.attachment import find_interface
from sensor.capture.program import Program
from sensor.metrics import catalogue as c
from sensor.metrics.collector import SensorCollector
from sensor.metrics.exporter import CONNECTIONS_MAX, build_info
from sensor.metrics.figure_source import FigureSource
from sensor.metrics.figures import ask
from sensor.metrics.snapshot import SnapshotBoard

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]
Network = tuple[str, str]


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
    """They delay neither the next scrape nor the end, however many they are, and threads stay few."""
    with running(network[0], tmp_path) as run, ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", 9321))) for _ in range(500)]
        ask_until(lambda figures: figures.state == "capturing")
        wait_until(lambda: psutil.Process(child(run, "sensor-metrics")).num_threads() <= CONNECTIONS_MAX + 2)
        assert idle[0].recv(1) == b""
        assert run.stop() == 0


def test_a_slow_request_ends(network: Network, tmp_path: Path) -> None:
    """A client that sends a byte now and then has no more time than a silent one."""
    with running(network[0], tmp_path) as run, socket.create_connection(("127.0.0.1", 9321)) as slow:

        def is_closed() -> bool:
            try:
                slow.send(b"G")
            except OSError:
                return True
            return False

        wait_until(is_closed, every_s=0.1)
        ask_until(lambda figures: figures.state == "capturing")
        assert run.stop() == 0


def test_both_families_are_answered(network: Network, tmp_path: Path) -> None:
    """``[::]`` means IPv4 too."""
    with running(network[0], tmp_path, "--metrics", "[::]:9321") as run:
        for address in (METRICS, "[::1]:9321"):
            assert ask(address).samples
        assert run.stop() == 0


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
