"""`sensor run` with receivers: events agree with the evidence, and no receiver can harm it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from event_receivers import read_counted, receiving, tcp
from live import SENSOR, Run, hits_among, replay, running, wait_until_received
from processes import wait_until

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.evidence.pcap import Record, RecordReader

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]
Network = tuple[str, str]


def traffic(directory: Path) -> tuple[Path, int]:
    """Write a capture with attacks in it; return its path and its number of frames."""
    frames = mix.demo(seed=1).frames
    write_capture(directory / "traffic.pcap", frames)
    return directory / "traffic.pcap", len(frames)


def records(run: Run) -> dict[tuple[str, int], Record]:
    """Return the records of matches by file and offset."""
    found = {}
    for path in hits_among(run.files):
        with path.open("rb") as file:
            found |= {(str(path), record.offset): record for record in RecordReader(file)}
    return found


def events_in(path: Path) -> list[dict[str, Any]]:
    """Return the events in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def final_counts(run: Run, receiver: str) -> str:
    """Return the counts that the log reports for a receiver at the end."""
    [line] = [line for line in run.log if f"events: {receiver}: " in line and " sent, " in line]
    return line.rpartition(": ")[2]


def test_events_agree_with_the_evidence(network: Network, tmp_path: Path) -> None:
    """A file and a syslog server get one event per match with the packet's location, as --json does."""
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
        assert event["sensor"]["url"] == (
            f"http://probe/?since_us={record.time_us}&until_us={record.time_us + 1}&devid=3"
        )
        assert event["in_iface"] == match["interface"] == network[0]
        assert event["alert"]["signature_id"] == match["rule"]
        assert (event["src_ip"], event.get("src_port", 0)) == (match["sip"], match["sport"])
    assert final_counts(run, syslog) == f"{len(events)} sent, 0 lost"


def test_failing_receivers_do_not_affect_evidence(network: Network, tmp_path: Path) -> None:
    """One receiver stalls and one is unreachable: all frames are accounted for, all evidence is written."""
    path, total = traffic(tmp_path)
    with tcp() as unused:
        unreachable = f"syslog+tcp://127.0.0.1:{unused.getsockname()[1]}"
    with receiving(tcp(), read_counted) as receiver:
        receiver.pause()
        stalled = f"syslog+tcp://127.0.0.1:{receiver.port}"
        flags = (
            "--events",
            unreachable,
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
    assert final_counts(run, unreachable) == f"0 sent, {offered} lost"
    sent, lost = (int(word) for word in final_counts(run, stalled).split() if word.isdigit())
    assert sent + lost == offered


def test_json_output_that_nobody_reads(network: Network, tmp_path: Path) -> None:
    """Capture continues, stops on SIGINT, and reports how many lines were lost."""
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
    sent, lost = (int(word) for word in final_counts(run, "--json").split() if word.isdigit())
    assert lost > 0
    assert sent == printed


def test_sighup_reopens_the_file(network: Network, tmp_path: Path) -> None:
    """As logrotate needs it: the renamed file is left alone, and a new file is written."""
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


def test_an_invalid_receiver_is_refused(network: Network, tmp_path: Path) -> None:
    """An invalid URL is a settings error, found before anything is created."""
    command = [*SENSOR, "run", "-i", network[0], "--evidence", str(tmp_path / "evidence")]
    done = subprocess.run([*command, "--events", "eve.json"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("sensor: events: eve.json: must start with one of")
    assert not (tmp_path / "evidence").exists()
