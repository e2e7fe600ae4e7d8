"""`sensor run` with receivers: what they are told is what the evidence holds, and none can harm it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from event_receivers import read_counted, receiving, tcp
from live import SENSOR, Run, replay, running, wait_until_received
from processes import wait_until

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.evidence.pcap import Record, RecordReader

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]
Network = tuple[str, str]


def traffic(directory: Path) -> tuple[Path, int]:
    """Frames with attacks in them, and how many."""
    frames = mix.demo(seed=1).frames
    write_capture(directory / "traffic.pcap", frames)
    return directory / "traffic.pcap", len(frames)


def records(run: Run) -> dict[tuple[str, int], Record]:
    """All evidence by file and offset."""
    found = {}
    for path in run.files:
        with path.open("rb") as file:
            found |= {(str(path), record.offset): record for record in RecordReader(file)}
    return found


def events_in(path: Path) -> list[dict[str, Any]]:
    """The events of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(run: Run, receiver: str) -> str:
    """What the log says in the end of a receiver."""
    [line] = [line for line in run.log if f"events: {receiver}: " in line and " sent, " in line]
    return line.rpartition(": ")[2]


def test_events_are_those_of_the_evidence(network: Network, tmp_path: Path) -> None:
    """One for each match, with the place of the packet, in a file and by syslog; the same as with --json."""
    path, total = traffic(tmp_path)
    with receiving(tcp(), read_counted) as receiver:
        syslog = f"syslog+tcp://127.0.0.1:{receiver.port}"
        flags = (
            "--events",
            f"file:{tmp_path / 'eve.json'}",
            "--events",
            syslog,
            "--events-url",
            "http://probe/",
        )
        with running(network[0], tmp_path / "evidence", *flags) as run:
            replay(network[1], path)
            wait_until_received(network[0], total)
            assert run.stop() == 0
        events = events_in(tmp_path / "eve.json")
        wait_until(lambda: len(receiver.events) == len(events))
        assert receiver.events == events
    evidence = records(run)
    assert len(events) == len(run.matches) > run.counters["written"] > 0
    assert {(event["sensor"]["file"], event["sensor"]["offset"]) for event in events} == set(evidence)
    for event, match in zip(events, run.matches, strict=True):
        record = evidence[event["sensor"]["file"], event["sensor"]["offset"]]
        assert record.time_us == match["time_us"]
        assert event["timestamp"][20:26] == f"{record.time_us % 1_000_000:06d}"
        assert event["sensor"]["url"] == f"http://probe/evidence?time={record.time_us}&devid=3"
        assert event["in_iface"] == match["interface"] == network[0]
        assert event["alert"]["signature_id"] == match["rule"]
        assert (event["src_ip"], event.get("src_port", 0)) == (match["sip"], match["sport"])
    assert said(run, syslog) == f"{len(events)} sent, 0 lost"


def test_receivers_that_are_no_good_do_not_cost_evidence(network: Network, tmp_path: Path) -> None:
    """One stalls, one never was there: every frame is accounted for, all evidence is written."""
    path, total = traffic(tmp_path)
    with tcp() as taken:
        nobody = f"syslog+tcp://127.0.0.1:{taken.getsockname()[1]}"
    with receiving(tcp(), read_counted) as receiver:
        receiver.pause()
        stalled = f"syslog+tcp://127.0.0.1:{receiver.port}"
        flags = (
            "--events",
            nobody,
            "--events",
            stalled,
            "--events-payload",
            "16384",
            "--events-queue-mib",
            "1",
        )
        with running(network[0], tmp_path / "evidence", *flags) as run:
            for times in range(1, 4):
                replay(network[1], path)
                wait_until_received(network[0], times * total)
            assert run.stop() == 0
    offered = len(run.matches)
    assert (
        run.counters["seen"] == run.counters["submitted"] + sum(run.counters["ignored"].values()) == 3 * total
    )
    assert run.counters["written"] + run.counters["suppressed"] == run.counters["matched"] > 0
    assert said(run, nobody) == f"0 sent, {offered} lost"
    sent, lost = (int(word) for word in said(run, stalled).split() if word.isdigit())
    assert sent + lost == offered


def test_nobody_reads_what_json_prints(network: Network, tmp_path: Path) -> None:
    """Capture goes on, ends when it is told to, and says how many lines nobody got."""
    path, total = traffic(tmp_path)
    command = [*SENSOR, "run", "-i", network[0], "--evidence", str(tmp_path / "evidence"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        run = Run(process, tmp_path / "evidence", process.stdout)
        try:
            for line in process.stderr:
                if "capturing on" in line:
                    break
            for times in range(1, 4):
                replay(network[1], path)
                wait_until_received(network[0], times * total)
            process.send_signal(signal.SIGINT)
            run.log = process.stderr.read().splitlines()
            printed = process.stdout.read().count("\n")
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert run.counters["written"] > 0
    sent, lost = (int(word) for word in said(run, "--json").split() if word.isdigit())
    assert lost > 0
    assert sent == printed


def test_sighup_opens_the_file_anew(network: Network, tmp_path: Path) -> None:
    """As logrotate wants it: the renamed file is left alone, a new one goes on."""
    path, total = traffic(tmp_path)
    file, old = tmp_path / "eve.json", tmp_path / "eve.json.1"
    with running(network[0], tmp_path / "evidence", "--events", f"file:{file}?mib=0") as run:
        file.rename(old)
        run.process.send_signal(signal.SIGHUP)
        wait_until(file.exists)
        replay(network[1], path)
        wait_until_received(network[0], total)
        assert run.stop() == 0
    assert old.read_text() == ""
    assert len(events_in(file)) == len(run.matches) > 0


def test_a_receiver_that_means_nothing_is_refused(network: Network, tmp_path: Path) -> None:
    """As a wrong setting, before anything is touched."""
    command = [*SENSOR, "run", "-i", network[0], "--evidence", str(tmp_path / "evidence")]
    done = subprocess.run([*command, "--events", "eve.json"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("sensor: events: eve.json: has to start with one of")
    assert not (tmp_path / "evidence").exists()
