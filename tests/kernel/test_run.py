"""`sensor run` on a virtual wire: evidence equals that of `sensor read`, and every frame is counted."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import dpkt
import pytest
from frames import corpus
from live import (
    PASS_ALL,
    SENSOR,
    Run,
    context_among,
    hits_among,
    on_terminal,
    replay,
    running,
    wait_until_received,
)
from pyroute2 import IPRoute
from tunnels import tunnel_corpus

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.capture.attachment import attached, find_interface
from sensor.capture.program import Program
from sensor.config.settings import BUNDLED_RULES
from sensor.counters import Counters

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]

SHARED = Path(__file__).parents[3] / "shared" / "reference"
Network = tuple[str, str]


def generated_traffic(directory: Path) -> Path:
    """Write the demo's traffic to a capture file."""
    path = directory / "traffic.pcap"
    write_capture(path, mix.demo(seed=1).frames)
    return path


def header_corpus(directory: Path) -> Path:
    """Write every combination of headers and all kinds of tunnels to a capture file."""
    path = directory / "corpus.pcap"
    frames = [frame for _, frame in corpus() + tunnel_corpus() if len(frame) >= 14]
    write_capture(path, [Frame(1_700_000_000_000_000 + i, frame) for i, frame in enumerate(frames)])
    return path


def reference(name: str) -> Any:
    """Return a parameter for a real capture with a known attack, if it is available.

    The test replays it in a fraction of its time. Flows end by time, so the copy has the times of the replay.
    """

    def hasten(directory: Path) -> Path:
        path = SHARED / "pcap" / name
        if not path.exists():
            pytest.skip(f"{path} is not here")
        hastened = directory / name
        frames = [Frame(1_700_000_000_000_000 + i * 50, data) for i, data in enumerate(frames_of([path]))]
        write_capture(hastened, frames)
        return hastened

    return pytest.param(hasten, id=name)


def frames_of(paths: list[Path]) -> list[bytes]:
    """Return all frames of capture files."""
    frames: list[bytes] = []
    for path in paths:
        with path.open("rb") as file:
            frames += [data for _, data in dpkt.pcap.Reader(file)]
    return frames


def comparable(matches: list[dict[str, Any]]) -> list[str]:
    """Return matches without time and interface, which differ between wire and file."""
    return sorted(json.dumps({**m, "time_us": 0, "interface": ""}) for m in matches)


def assert_law(run: Run) -> Counters:
    """Assert every line of the law of the counters, and return them."""
    counters = Counters(**run.counters)
    for name, terms, left, right in counters.equations():
        assert left == right, f"{name} = {terms}: {counters}"
    return counters


def test_all_of_our_rules_give_the_same_evidence(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the whole rule set over traffic with attacks in it."""
    monkeypatch.setenv("SENSOR_RULES", str(BUNDLED_RULES))
    compare_wire_and_file(network, tmp_path, generated_traffic(tmp_path), "any")


@pytest.mark.parametrize("keep", ["any", "threat", "flow"])
@pytest.mark.parametrize(
    "capture",
    [
        generated_traffic,
        header_corpus,
        reference("sql_inject.pcap"),
        reference("mining_common.pcap"),
        reference("dnstun_cobalt_strike.pcap"),
    ],
)
def test_wire_and_file_give_the_same_evidence(
    network: Network, tmp_path: Path, capture: Any, keep: str
) -> None:
    """For each value of --keep: generated and real traffic, and every combination of headers."""
    compare_wire_and_file(network, tmp_path, capture(tmp_path), keep)


def compare_wire_and_file(network: Network, tmp_path: Path, path: Path, keep: str) -> None:
    """Compare all frames and matches of `run` and `read`; tcpdump and capinfos read every file."""
    sent = frames_of([path])
    with running(network[0], tmp_path / "live", "--keep", keep) as run:
        replay(network[1], path)
        wait_until_received(network[0], len(sent))
        assert run.stop() == 0
    counters = assert_law(run)
    assert counters.seen == len(sent)
    assert counters.submit_failed == 0

    matches, read_files = read_of(path, tmp_path / "read", "--keep", keep)
    assert sorted(frames_of(hits_among(run.files))) == sorted(frames_of(hits_among(read_files)))
    # A capture replayed in a fraction of its time passes the cut-off before its flows are followed.
    context, in_file = (Counter(frames_of(context_among(files))) for files in (run.files, read_files))
    assert context <= in_file
    assert context == in_file or (SHARED / "pcap" / path.name).exists()
    assert comparable(run.matches) == comparable(matches)
    for file in [*run.files, *read_files]:
        subprocess.run(["tcpdump", "-nr", str(file)], check=True, capture_output=True)
        subprocess.run(["capinfos", str(file)], check=True, capture_output=True)


def read_of(path: Path, evidence: Path, *flags: str) -> tuple[list[dict[str, Any]], list[Path]]:
    """Run `sensor read` on a capture file; return its matches and evidence files."""
    command = [*SENSOR, "read", str(path), "--evidence", str(evidence), "--json", *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()], sorted(evidence.glob("*/*.pcap"))


def burst_while_stopped(network: Network, tmp_path: Path, *flags: str) -> Counters:
    """Send 3,000 large candidates to a stopped sensor, then let it continue and end at once."""
    frame = b"\2" * 6 + b"\4" * 6 + b"\x12\x34" + bytes(1400)
    path = tmp_path / "burst.pcap"
    write_capture(path, [Frame(1_700_000_000_000_000 + i, frame) for i in range(3000)])
    with running(network[0], tmp_path / "evidence", *flags) as run:
        processes = [run.process.pid, *run.wait_for_workers(1)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        replay(network[1], path)
        wait_until_received(network[0], 3000)
        run.process.send_signal(signal.SIGINT)
        for process in processes:
            os.kill(process, signal.SIGCONT)
        assert run.wait() == 0
    return assert_law(run)


def test_rings_are_read_at_the_end(network: Network, tmp_path: Path) -> None:
    """Every submitted frame is read."""
    counters = burst_while_stopped(network, tmp_path)
    assert counters.read == counters.submitted == 3000


def test_loss_is_counted(network: Network, tmp_path: Path) -> None:
    """Frames are lost if the ring is too small, and the counters say how many."""
    counters = burst_while_stopped(network, tmp_path, "--ring-mib", "1")
    assert counters.seen == 3000
    assert counters.submit_failed > 1000
    assert counters.undecodable == counters.submitted > 0


def xdp_program(interface: str) -> int | None:
    """Return the id of the XDP program attached to an interface."""
    return find_interface(interface).xdp_program_id


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_end_leaves_a_program_attached(network: Network, tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT and SIGTERM end the sensor normally; SIGKILL detaches the program, too."""
    with running(network[0], tmp_path) as run:
        assert xdp_program(network[0]) is not None
        run.process.send_signal(number)
        assert run.wait() == (-9 if number == signal.SIGKILL else 0)
    assert xdp_program(network[0]) is None


def test_it_ends_after_the_duration(network: Network, tmp_path: Path) -> None:
    """The sensor ends by itself with exit code 0."""
    with running(network[0], tmp_path, "--duration", "0.3") as run:
        assert run.wait() == 0
    assert_law(run)


def test_a_kill_loses_nothing_that_was_matched(network: Network, tmp_path: Path) -> None:
    """After kill -9 the evidence is readable, and the next start continues the same file."""
    path = generated_traffic(tmp_path)
    total = len(frames_of([path]))
    with running(network[0], tmp_path / "evidence") as run:
        replay(network[1], path)
        wait_until_received(network[0], total)
        run.stop()
    expected = len(frames_of(run.files))
    with running(network[0], tmp_path / "killed") as first:
        replay(network[1], path)
        wait_until_received(network[0], 2 * total)
        while len(first.files) == 0 or len(frames_of(first.files)) < expected:
            assert first.process.poll() is None
        first.process.kill()
        first.wait()
    assert {file.suffix for file in first.files} == {".temp"}
    with running(network[0], tmp_path / "killed") as second:
        replay(network[1], path)
        wait_until_received(network[0], 3 * total)
        assert second.stop() == 0
    assert len(frames_of(second.files)) == 2 * expected
    assert all(file.suffix == ".pcap" for file in second.files)


def test_several_interfaces(network: Network, tmp_path: Path) -> None:
    """Both ends at once; each match names its interface."""
    path = generated_traffic(tmp_path)
    total = len(frames_of([path]))
    with running(network[0], tmp_path / "evidence", "-i", network[1]) as run:
        for source, sink in (network, network[::-1]):
            replay(source, path)
            wait_until_received(sink, total)
        assert run.stop() == 0
    assert assert_law(run).seen == 2 * total
    assert {match["interface"] for match in run.matches} == set(network)


@pytest.mark.parametrize(("action", "arrives"), [("pass", True), ("drop", False)])
def test_action(network: Network, tmp_path: Path, action: str, arrives: bool) -> None:
    """By default the host receives the frames as if there were no sensor; with drop it does not."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x1234)) as host:
        host.bind((network[0], 0x1234))
        host.setblocking(False)
        with running(network[0], tmp_path, "--action", action) as run:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
                sender.bind((network[1], 0))
                sender.send(b"\2" * 6 + b"\4" * 6 + b"\x12\x34" + bytes(50))
            wait_until_received(network[0], 1)
            run.stop()
        assert assert_law(run).seen == 1
        if arrives:
            assert len(host.recv(2048)) == 64
        else:
            with pytest.raises(BlockingIOError):
                host.recv(2048)


def test_generic_mode(network: Network, tmp_path: Path) -> None:
    """Generic mode sees the same frames."""
    path = generated_traffic(tmp_path)
    total = len(frames_of([path]))
    with running(network[0], tmp_path / "evidence", "--mode", "generic") as run:
        replay(network[1], path)
        wait_until_received(network[0], total)
        assert run.stop() == 0
    assert assert_law(run).seen == total
    assert run.matches


def test_an_interface_that_goes_away(network: Network, tmp_path: Path) -> None:
    """The sensor ends: it closes its files and says what happened."""
    with running(network[0], tmp_path) as run:
        with IPRoute() as netlink:
            netlink.link("del", index=netlink.link_lookup(ifname=network[0])[0])
        assert run.wait() == 4
    assert f"{network[0]}: there is no such interface" in run.log[-1]
    assert_law(run)


def test_a_program_that_is_detached(network: Network, tmp_path: Path) -> None:
    """An administrator can detach it by force; the sensor then ends, too."""
    with running(network[0], tmp_path) as run:
        infos = [path.read_text() for path in Path(f"/proc/{run.process.pid}/fdinfo").iterdir()]
        [link_id] = [re.findall(r"link_id:\s(\d+)", info)[0] for info in infos if "link_type:\txdp" in info]
        subprocess.run(["bpftool", "link", "detach", "id", link_id], check=True)
        assert run.wait() == 4
    assert f"{network[0]}: the XDP program was detached" in run.log[-1]
    assert_law(run)


def refused(*arguments: str, wrapper: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run a command that must fail; return its exit code and its last line."""
    done = subprocess.run([*wrapper, *SENSOR, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("network")
def test_a_missing_interface(tmp_path: Path) -> None:
    """The error lists the interfaces that exist."""
    code, line = refused("run", "-i", "nosuch0", "--evidence", str(tmp_path))
    assert (code, line) == (
        4,
        "sensor: nosuch0: there is no such interface; this host has lo, mirror, source",
    )


def test_an_interface_without_carrier(network: Network, tmp_path: Path) -> None:
    """The error says that there is no carrier."""
    with IPRoute() as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname=network[1])[0], state="down")
    code, line = refused("run", "-i", network[0], "--evidence", str(tmp_path))
    assert code == 4
    assert "mirror: no carrier" in line


def test_another_program_is_attached(network: Network, tmp_path: Path) -> None:
    """It is neither replaced nor removed, and the error names it."""
    program = Program(PASS_ALL)
    with attached(program.fd, find_interface(network[0]), "native"):
        theirs = xdp_program(network[0])
        code, line = refused("run", "-i", network[0], "--evidence", str(tmp_path))
        assert code == 4
        assert f"mirror: XDP program {theirs} is attached already" in line
        assert xdp_program(network[0]) == theirs
    program.close()


@pytest.mark.usefixtures("network")
def test_no_native_mode(tmp_path: Path) -> None:
    """There is no silent fallback: the error names generic mode, which then works."""
    code, line = refused("run", "-i", "lo", "--evidence", str(tmp_path))
    assert code == 4
    assert "--mode generic" in line
    with running("lo", tmp_path, "--mode", "generic") as run:
        assert run.stop() == 0


def test_not_root(network: Network, tmp_path: Path) -> None:
    """The error names the missing capabilities; nothing was created before."""
    evidence = tmp_path / "evidence"
    no_privileges = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    code, line = refused("run", "-i", network[0], "--evidence", str(evidence), wrapper=no_privileges)
    assert code == 3
    assert "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW" in line
    assert not evidence.exists()


def test_evidence_that_cannot_be_written(network: Network, tmp_path: Path) -> None:
    """The error comes before the program is attached."""
    (tmp_path / "file").write_text("")
    code, line = refused("run", "-i", network[0], "--evidence", str(tmp_path / "file"))
    assert code == 6
    assert str(tmp_path / "file") in line
    assert xdp_program(network[0]) is None


def test_rules_that_are_wrong(network: Network, tmp_path: Path) -> None:
    """The error names file, rule and field; nothing was created before."""
    (tmp_path / "threat.json").write_text(
        '{"threat": {"rules": {"1": {"type": "T", "name": "N", "regex": "("}}}}'
    )
    code, line = refused(
        "run", "-i", network[0], "--rules", str(tmp_path), "--evidence", str(tmp_path / "evidence")
    )
    assert code == 2
    assert "threat.json:1: rule 1: regex" in line
    assert not (tmp_path / "evidence").exists()


def test_the_status_line(network: Network, tmp_path: Path) -> None:
    """On a terminal a line per second shows the rate and the losses."""
    command = [*SENSOR, "run", "-i", network[0], "--evidence", str(tmp_path), "--duration", "1.5"]
    shown = on_terminal(command)
    assert "frames/s" in shown
    assert "lost 0" in shown
