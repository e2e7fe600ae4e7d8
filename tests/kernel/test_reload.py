"""Reloads under load: the old rules apply until the new ones do, and no frame is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import takewhile
from pathlib import Path

import pytest
from live import SENSOR, Run, replay, running, wait_until_received
from processes import wait_until

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.capture.cpus import online_cpus
from tests.rules.endless_rules import ENDLESS

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules", "without_context")]
Network = tuple[str, str]
ROUNDS = 5

HELLO = {"1": {"type": "T", "name": "hello", "protocol": "udp", "port": 7, "regex": "^hello"}}
WORLD = {"2": {"type": "T", "name": "world", "protocol": "udp", "port": 9, "regex": "world"}}
SOON_S = 5
"""CPU time in which rules are refused."""


def udp_frame(port: int, payload: bytes) -> bytes:
    """Return a frame with a UDP datagram to a port."""
    length = 8 + len(payload)
    ip = (
        bytes.fromhex("4500")
        + (20 + length).to_bytes(2, "big")
        + bytes.fromhex("00000000401100000a0000010a000002")
    )
    udp = (1000).to_bytes(2, "big") + port.to_bytes(2, "big") + length.to_bytes(2, "big") + bytes(2)
    return b"\2" * 6 + b"\4" * 6 + b"\x08\x00" + ip + udp + payload


def write_rules(directory: Path, rules: object) -> None:
    """Write one rule file under another name and rename it, as an editor does."""
    directory.mkdir(exist_ok=True)
    (directory / "new").write_text(json.dumps({"threat": {"rules": rules}}))
    (directory / "new").rename(directory / "threat.json")


def wait_for_log(run: Run, text: str) -> str:
    """Read the log up to a line that contains ``text``, and return the line."""
    assert run.process.stderr
    for line in run.process.stderr:
        run.log.append(line.rstrip())
        if text in line:
            return line
    raise AssertionError(f"no line with {text!r} in {run.log}")


def with_cpu_time(command: list[str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a command; return it with the CPU time that it and its children took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_time_of_children(pid: int) -> float:
    """Return the CPU time of a process' children that have ended (proc(5), cutime and cstime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def send(network: Network, tmp_path: Path, frames: list[bytes], received_before: int) -> None:
    """Send frames and wait until they have arrived."""
    path = tmp_path / "frames.pcap"
    write_capture(path, [Frame(1_700_000_000_000_000 + i, frame) for i, frame in enumerate(frames)])
    replay(network[1], path)
    wait_until_received(network[0], received_before + len(frames))


def test_new_rules_apply_in_the_kernel_and_in_workers(network: Network, tmp_path: Path) -> None:
    """After SIGHUP frames of another port are candidates and another text matches; the old rule is gone."""
    frames = [udp_frame(7, b"hello world"), udp_frame(9, b"hello world")]
    write_rules(tmp_path / "rules", HELLO)
    with running(network[0], tmp_path / "evidence", "--rules", str(tmp_path / "rules")) as run:
        send(network, tmp_path, frames, 0)
        write_rules(tmp_path / "rules", WORLD)
        run.process.send_signal(signal.SIGHUP)
        wait_for_log(run, "1 rule in force")
        send(network, tmp_path, frames, 2)
        assert run.stop() == 0
    assert [(match["name"], match["dport"]) for match in run.matches] == [("hello", 7), ("world", 9)]
    assert run.counters["ignored"]["port"] == 2


def test_evidence_in_a_relative_directory(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence is written during a reload, although the compiler changes the working directory meanwhile."""
    monkeypatch.chdir(tmp_path)
    write_rules(tmp_path / "rules", HELLO)
    frames = [udp_frame(7, b"hello")]
    with running(network[0], Path("evidence"), "--rules", "rules", "--profile", "thorough") as run:
        directory = Path(f"/proc/{run.process.pid}/cwd")
        run.process.send_signal(signal.SIGHUP)
        wait_until(lambda: directory.readlink() != tmp_path, every_s=0)
        send(network, tmp_path, frames, 0)
        wait_for_log(run, "1 rule in force")
        assert run.stop() == 0
    assert (run.counters["written"], run.counters["write_failed"]) == (1, 0)


def test_a_faulty_set_leaves_the_old_one_running(network: Network, tmp_path: Path) -> None:
    """The log names the fault; the old rules stay in force."""
    write_rules(tmp_path / "rules", HELLO)
    with running(network[0], tmp_path / "evidence", "--rules", str(tmp_path / "rules")) as run:
        write_rules(tmp_path / "rules", {"3": {"type": "T", "name": "bad", "regex": "("}})
        run.process.send_signal(signal.SIGHUP)
        assert "rule 3: regex" in wait_for_log(run, "rules not reloaded, the old ones stay")
        send(network, tmp_path, [udp_frame(7, b"hello")], 0)
        assert run.stop() == 0
    assert [match["name"] for match in run.matches] == ["hello"]


def test_the_reload_command_finds_the_sensor(network: Network, tmp_path: Path) -> None:
    """The sensor is found by its evidence directory; the error says if there is none."""
    command = [*SENSOR, "rules", "reload", "--evidence", str(tmp_path / "evidence")]
    write_rules(tmp_path / "rules", HELLO)
    with running(network[0], tmp_path / "evidence", "--rules", str(tmp_path / "rules")) as run:
        write_rules(tmp_path / "rules", HELLO | WORLD)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stdout == "added: 2; 2 rules in force\n"
        write_rules(tmp_path / "rules", {"2": WORLD["2"] | {"regex": ENDLESS[-1]}})
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert "old ones stay in force" in done.stderr
        assert "rule 2: regex: the expression expands to 10^12 states" in done.stderr
        write_rules(tmp_path / "rules", WORLD)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stdout == "removed: 1; 1 rule in force\n"
        assert run.stop() == 0
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 6
    assert "no sensor writes to" in done.stderr


@pytest.mark.parametrize("regex", ENDLESS)
def test_endless_rules_are_refused_soon(network: Network, tmp_path: Path, regex: str) -> None:
    """The check, the start and a reload name the rule, and the old rules go on matching."""
    write_rules(tmp_path / "hostile", {"2": WORLD["2"] | {"regex": regex}})
    hostile = str(tmp_path / "hostile")
    start = ["run", "-i", network[0], "--no-api", "--rules", hostile, "--evidence", str(tmp_path / "refused")]
    for command in (["rules", "check", hostile], start):
        done, cpu_s = with_cpu_time([*SENSOR, *command])
        assert done.returncode == 2
        assert "rule 2: regex: the expression expands to" in done.stdout + done.stderr
        assert cpu_s < SOON_S
    write_rules(tmp_path / "rules", HELLO)
    with running(network[0], tmp_path / "evidence", "--rules", str(tmp_path / "rules")) as run:
        write_rules(tmp_path / "rules", {"2": WORLD["2"] | {"regex": regex}})
        before_s = cpu_time_of_children(run.process.pid)
        done, _ = with_cpu_time([*SENSOR, "rules", "reload", "--evidence", str(tmp_path / "evidence")])
        assert done.returncode == 2
        assert "rule 2: regex: the expression expands to" in done.stderr
        assert cpu_time_of_children(run.process.pid) - before_s < SOON_S
        send(network, tmp_path, [udp_frame(7, b"hello")], 0)
        assert run.stop() == 0
    assert [match["name"] for match in run.matches] == ["hello"]


def test_a_request_during_the_start(network: Network, tmp_path: Path) -> None:
    """It does not end the sensor, and the rules are loaded again once it captures."""
    write_rules(tmp_path / "rules", HELLO)
    lock = tmp_path / "evidence" / "3" / ".lock"
    command = [*SENSOR, "run", "-i", network[0], "--evidence", str(tmp_path / "evidence"), "--no-api"]
    flags = ["--rules", str(tmp_path / "rules")]
    with subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: lock.exists() and lock.read_text(), every_s=0)
        process.send_signal(signal.SIGHUP)
        assert process.stderr
        log = "".join(takewhile(lambda line: "1 rule in force" not in line, process.stderr))
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 0, log + rest
    assert "capturing on" in log


@contextmanager
def reloads(run: Run) -> Iterator[None]:
    """Request a reload every 200 ms, in a thread."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.2):
            run.process.send_signal(signal.SIGHUP)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def evidence_of(run: Run) -> list[str]:
    """Return the matches without their times."""
    return sorted(json.dumps({**match, "time_us": 0}) for match in run.matches)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_reloads_every_200_ms_change_no_evidence(
    network: Network, tmp_path: Path, few_rules: Path, workers: str
) -> None:
    """The same rules are reloaded under traffic: no frame is lost, and the evidence is the same."""
    traffic = mix.demo(seed=1).frames
    path = tmp_path / "traffic.pcap"
    write_capture(path, [Frame(1_700_000_000_000_000 + i, frame.data) for i, frame in enumerate(traffic)])

    received = 0

    def capture(name: str, disturb: Callable[[Run], AbstractContextManager[None]]) -> Run:
        nonlocal received
        flags = ("--rules", str(few_rules), "--workers", workers)
        flags += ("--profile", "thorough", "--suppress-above", "0")  # nothing that depends on time
        with running(network[0], tmp_path / name, *flags) as run:
            with disturb(run):
                for number in range(ROUNDS):
                    replay(network[1], path, pps=4000, cpu=online_cpus()[number % int(workers)])
                    received += len(traffic)
                    wait_until_received(network[0], received)
                    if disturb is reloads:
                        wait_for_log(run, "rules in force")
            assert run.stop() == 0
        return run

    undisturbed, reloaded = capture("undisturbed", nullcontext), capture("reloaded", reloads)
    assert evidence_of(reloaded) == evidence_of(undisturbed)
    assert reloaded.counters["submit_failed"] == 0
    assert reloaded.counters["seen"] == ROUNDS * len(traffic)
