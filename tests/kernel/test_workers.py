"""`sensor run` as processes: killed workers, signals from a terminal, several queues."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from frames import IPV4, TCP, UDP, ethernet, ipv4, tcp, udp
from live import Run, replay, running, wait_until_received
from processes import is_running, wait_until
from test_reload import wait_for_log, write_rules
from test_run import Network, assert_law, comparable, frames_of, generated_traffic, read_of, xdp_program

from sensor.bench.private_network import private_network
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.capture.cpus import online_cpus

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules", "without_context")]

ALL_KEPT = ("--suppress-above", "0")
ROUNDS = 10


def write(path: Path, frames: list[bytes]) -> Path:
    """Write a capture file with 50 µs between frames."""
    write_capture(path, [Frame(1_700_000_000_000_000 + i * 50, frame) for i, frame in enumerate(frames)])
    return path


@pytest.fixture
def long_traffic(tmp_path: Path) -> Path:
    """Write the demo's traffic several times over, so that it lasts while a test disturbs the sensor."""
    return write(tmp_path / "long.pcap", [frame.data for frame in mix.demo(seed=1).frames] * ROUNDS)


def output_bytes(run: Run) -> int:
    """Return the number of bytes the sensor has printed about matches."""
    return os.fstat(run.output.fileno()).st_size


def wait_for_more_output(run: Run) -> None:
    """Wait until the sensor prints another match."""
    before = output_bytes(run)
    wait_until(lambda: output_bytes(run) > before)


def wait_for_another_worker(run: Run, known: list[int]) -> None:
    """Wait until a worker runs whose process id is not in ``known``."""
    wait_until(lambda: set(run.workers) - set(known))


@contextmanager
def in_background(function: Callable[[], object]) -> Iterator[None]:
    """Call a function in a thread, and wait for it at the end."""
    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(function)
        yield
        done.result()


def assert_evidence_of(run: Run, path: Path, tmp_path: Path, *flags: str) -> None:
    """Assert that the evidence is that of `sensor read`: no frame is missing, none counts twice."""
    matches, files = read_of(path, tmp_path / "read", *flags)
    assert sorted(frames_of(run.files)) == sorted(frames_of(files))
    assert comparable(run.matches) == comparable(matches)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_workers_lose_nothing(
    network: Network, tmp_path: Path, long_traffic: Path, workers: str
) -> None:
    """Workers are killed at several moments under traffic; the counters say how many."""
    total, kills = len(frames_of([long_traffic])), 4
    with running(network[0], tmp_path / "live", "--workers", workers, *ALL_KEPT) as run:
        with in_background(lambda: replay(network[1], long_traffic)):
            for number in range(kills):
                known = run.wait_for_workers(int(workers))
                wait_for_more_output(run)
                os.kill(known[number % len(known)], signal.SIGKILL)
                wait_for_another_worker(run, known)
        wait_until_received(network[0], total)
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed, counters.restarts) == (total, 0, kills)
    assert_evidence_of(run, long_traffic, tmp_path, *ALL_KEPT)


def test_a_killed_supervisor_leaves_nothing(network: Network, tmp_path: Path) -> None:
    """Neither workers nor the program remain, although workers started later held the program, too."""
    with running(network[0], tmp_path, "--workers", "2") as run:
        first = run.wait_for_workers(2)
        os.kill(first[0], signal.SIGKILL)
        wait_for_another_worker(run, first)
        workers = run.wait_for_workers(2)
        assert all(map(is_running, workers))
        assert xdp_program(network[0]) is not None
        run.process.kill()
        assert run.wait() == -signal.SIGKILL
    wait_until(lambda: not any(map(is_running, workers)))
    wait_until(lambda: xdp_program(network[0]) is None)


@pytest.mark.parametrize("both", [False, True], ids=["one interface", "two interfaces"])
def test_traffic_on_all_cpus(network: Network, tmp_path: Path, both: bool) -> None:
    """Each CPU has a ring and each worker a share of the rings; frames of every CPU are matched."""
    path, cpus = generated_traffic(tmp_path), online_cpus()
    total = len(frames_of([path])) * len(cpus)
    flags = ("-i", network[1]) if both else ("--workers", str(len(cpus)))
    flags += ("--profile", "thorough", *ALL_KEPT)
    with running(network[0], tmp_path / "live", *flags) as run:
        run.wait_for_workers(min(2, len(cpus)) if both else len(cpus))
        with ThreadPoolExecutor() as executor:
            done = [executor.submit(replay, network[1 - (both and cpu % 2)], path, cpu=cpu) for cpu in cpus]
        assert [one.result() for one in done] == [None] * len(cpus)
        for interface in network if both else network[:1]:
            wait_until_received(interface, total // (2 if both else 1))
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed) == (total, 0)
    matches, _ = read_of(path, tmp_path / "read", *flags[2:])
    assert comparable(run.matches) == comparable(matches * len(cpus))


def test_a_worker_for_each_queue(tmp_path: Path) -> None:
    """The default, up to the number of CPUs; one worker if labels of flows decide what is kept."""
    queues = "numrxqueues 2 numtxqueues 2"
    command = f"ip link add mirror {queues} type veth peer name source {queues}"
    with private_network():
        subprocess.run(command.split(), check=True)
        for name in ("mirror", "source"):
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        for flags, workers in (((), min(2, len(online_cpus()))), (("--profile", "ly_probe"), 1)):
            with running("mirror", tmp_path, *flags) as run:
                run.wait_for_workers(workers)
                assert run.stop() == 0


def test_ctrl_c(network: Network, tmp_path: Path, long_traffic: Path) -> None:
    """A terminal interrupts every process at once: the rings are emptied, and the sensor ends normally."""
    with (
        running(network[0], tmp_path / "live", "--workers", "2") as run,
        in_background(lambda: replay(network[1], long_traffic)),
    ):
        wait_until(lambda: output_bytes(run))
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.wait() == 0
    counters = assert_law(run)
    assert (counters.in_ring, counters.restarts) == (0, 0)
    assert counters.read == counters.submitted > 0
    assert not any("Traceback" in line for line in run.log)


def test_a_service_manager_ends_all_processes(network: Network, tmp_path: Path) -> None:
    """SIGTERM goes to each process; the supervisor still ends the workers in order."""
    with running(network[0], tmp_path, "--workers", "2") as run:
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.wait() == 0
    assert assert_law(run).restarts == 0


def test_reloads_and_the_end_close_together(network: Network, tmp_path: Path) -> None:
    """Two requests at once are served; an unfinished reload does not disturb the end."""
    with running(network[0], tmp_path / "twice") as run:
        run.process.send_signal(signal.SIGHUP)
        run.process.send_signal(signal.SIGHUP)
        wait_for_log(run, "rules in force")
        assert run.stop() == 0
    for number in range(3):
        with running(network[0], tmp_path / str(number)) as run:
            run.process.send_signal(signal.SIGHUP)
            if number:
                wait_for_log(run, "rules ready" if number == 1 else "rules in force")
            assert run.stop() == 0
        assert_law(run)


def test_a_reload_while_workers_are_killed(network: Network, tmp_path: Path, long_traffic: Path) -> None:
    """The evidence is the same as without reloads and deaths."""
    rounds, total = 2, len(frames_of([long_traffic]))
    flags = ("--profile", "thorough", *ALL_KEPT)
    with running(network[0], tmp_path / "live", "--workers", "2", *flags) as run:
        for number in range(rounds):
            with in_background(lambda: replay(network[1], long_traffic)):
                wait_for_more_output(run)
                run.process.send_signal(signal.SIGHUP)
                os.kill(run.wait_for_workers(2)[number], signal.SIGKILL)
                wait_for_log(run, "rules in force")
            wait_until_received(network[0], total * (number + 1))
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed, counters.restarts) == (rounds * total, 0, rounds)
    matches, _ = read_of(long_traffic, tmp_path / "read", *flags)
    assert comparable(run.matches) == comparable(matches * rounds)


BANNER = {"1": {"type": "T", "name": "banner", "protocol": "tcp", "port": 7, "regex": "^hello"}}


def test_a_named_flow_is_not_named_again_after_a_reload(network: Network, tmp_path: Path) -> None:
    """Labels of flows, which profile ly_probe needs, outlive the workers."""
    write_rules(tmp_path / "rules", BANNER)
    flows = [ethernet(IPV4, ipv4(TCP, tcp(b"hello", sport=sport, dport=7))) for sport in (1000, 2000)]
    flags = ("--rules", str(tmp_path / "rules"), "--profile", "ly_probe")
    with running(network[0], tmp_path / "live", *flags) as run:
        for number, frames in enumerate(([flows[0]] * 2, flows), 1):
            replay(network[1], write(tmp_path / "flows.pcap", frames))
            wait_until_received(network[0], 2 * number)
            wait_until(lambda: output_bytes(run))
            run.process.send_signal(signal.SIGHUP)
            wait_for_log(run, "1 rule in force")
        assert run.stop() == 0
    assert [match["sport"] for match in run.matches] == [1000, 2000]


def test_frames_in_several_buffers(network: Network, tmp_path: Path) -> None:
    """Native capture with an MTU of 9,000 decides by the first buffer, and keeps the whole frame."""
    for name in network:
        subprocess.run(["ip", "link", "set", name, "mtu", "9000"], check=True)
    write_rules(tmp_path / "rules", {**BANNER, "2": {**BANNER["1"], "port": 9, "regex": "needle$"}})
    body = bytes(range(256)) * 31
    payloads = [(7, b"hello" + body), (7, b"no greeting" + body), (9, body + b"needle"), (9, body), (8, body)]
    frames = [ethernet(IPV4, ipv4(TCP, tcp(payload, dport=port))) for port, payload in payloads]
    frames.append(ethernet(IPV4, ipv4(UDP, udp(b"hello" + body, dport=7))))
    with running(network[0], tmp_path / "live", "--rules", str(tmp_path / "rules")) as run:
        replay(network[1], write(tmp_path / "large.pcap", frames))
        wait_until_received(network[0], len(frames))
        assert run.stop() == 0
    assert frames_of(run.files) == [frames[0], frames[2]]
    ignored = assert_law(run).ignored
    assert {reason: count for reason, count in ignored.items() if count} == {
        "prefix": 1,
        "port": 1,
        "protocol": 1,
    }
