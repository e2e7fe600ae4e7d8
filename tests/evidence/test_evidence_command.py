"""``sensor evidence`` on the command line: its output, its files and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from evidence_samples import NOON_S, NS, capinfos_counts, item, writing

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.cli.evidence import evidence_group
from sensor.evidence.block import block_of_objects
from sensor.model import Match, Rule
from tests.rules.commands import sensor

SENSOR = [sys.executable, "-m", "sensor"]


Kept = tuple[Path, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def kept(few_rules: Path, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Return evidence of the demo traffic, and the matches that ``sensor read`` printed for it."""
    directory = tmp_path_factory.mktemp("kept")
    capture = directory / "capture.pcap"
    write_capture(capture, mix.demo(seed=1).frames)
    done = sensor("read", capture, "--json", "--rules", few_rules, "--evidence", directory / "evidence")
    assert done.code == 0, done.err
    return directory / "evidence", done.objects


def test_list_shows_what_read_printed(kept: Kept) -> None:
    """The list has every match of every packet with the same values, the newest first."""
    evidence, matches = kept
    done = sensor("evidence", "list", "--evidence", evidence, "--limit", "100000", "--json")
    items = done.objects
    times_us = [item["time_us"] for item in items]
    assert times_us == sorted(times_us, reverse=True)
    flat = [
        {key: (item | match)[key] for key in matches[0] if key != "text"}
        for item in items
        for match in item["matches"]
    ]
    expected = [{key: value for key, value in match.items() if key != "text"} for match in matches]
    assert sorted(flat, key=str) == sorted(expected, key=str)


def test_a_list_says_that_the_index_is_incomplete(kept: Kept, tmp_path: Path) -> None:
    """Without the index of a day nothing is found, and standard error says why."""
    evidence = tmp_path / "evidence"
    shutil.copytree(kept[0], evidence)
    assert "not in the index" not in sensor("evidence", "list", "--evidence", evidence).err
    for path in evidence.glob("*/*.sqlite*"):
        path.unlink()
    done = sensor("evidence", "list", "--evidence", evidence)
    assert (done.code, done.out) == (0, "")
    assert "bytes of evidence are not in the index" in done.err


def test_list_by_every_filter(kept: Kept) -> None:
    """Each flag alone selects the evidence that meets it."""
    evidence, matches = kept

    def count(*flags: str) -> int:
        done = sensor("evidence", "list", "--evidence", evidence, "--limit", "100000", "--json", *flags)
        assert done.code == 0, done.err
        return sum(one["role"] == "hit" for one in done.objects)

    def packets(*names: str, value: object) -> int:
        found = {
            (m["time_us"], m["sip"], m["sport"]) for m in matches if value in [m[name] for name in names]
        }
        return len(found)

    threat = next(match for match in matches if match["class"] == "threat")
    everything = count()
    assert count("--class", "threat") == packets("class", value="threat") > 0
    assert count("--rule", str(threat["rule"])) == packets("rule", value=threat["rule"]) > 0
    assert count("--network", str(threat["sip"])) == packets("sip", "dip", value=threat["sip"]) > 0
    assert count("--port", str(threat["dport"])) == packets("sport", "dport", value=threat["dport"]) > 0
    assert count("--protocol", "UDP") == count("--protocol", "17") == packets("protocol", value="UDP")
    assert count("--devid", "3") == everything == count("--devid", "4") + everything
    assert 0 < count("--text", "http/1.1\\r\\n") < everything
    middle = sorted(match["time_us"] for match in matches)[len(matches) // 2]
    older, newer = count("--until", str(middle)), count("--since", str(middle))
    assert (older > 0, newer > 0, older + newer) == (True, True, everything)
    assert count("--since", "2026-01-05T10:00:00") == count("--since", "2026-01-05T11:00:00+01:00") > 0


def test_show_marks_the_matched_bytes(tmp_path: Path) -> None:
    """The dump has every byte of the frame, and marks exactly the bytes of the match."""
    rule = Rule(50001, "threat", "Sample", "SQL injection", r"\x00ab", version="7.1")
    one = item(0x6162, NOON_S * NS + 123_456_000)
    one = one._replace(matches=(Match(rule, 5, 8),), vlan=(0x2064,))
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([one]))
    done = sensor("evidence", "show", "2023-06-18T12:00:00.123456", "--evidence", tmp_path)
    [found] = sensor("evidence", "list", "--evidence", tmp_path, "--json").objects
    key = found["key"]
    head, layers, dump = done.out.split("\n\n")
    assert head.splitlines() == [
        "2023-06-18 12:00:00.123456 UTC  (1687089600123456)",
        "    UDP 0.0.10.1:12345 > 0.0.0.10:9",
        "    VLAN 100",
        "    62 bytes, on interface 1; payload: bytes 42 to 62",
        f"    {writer.directory}/202306181200-threat.pcap, byte 24; key {key}",
        "    match: threat 50001 SQL injection 7.1, bytes 47 to 50: .ab",
    ]
    assert [line[4:15].strip() for line in layers.splitlines() if line[4] != " "] == [
        "Ethernet",
        "IPv4",
        "UDP",
        "Data",
    ]
    assert "source port 12345, destination port 9" in layers
    lines = dump.splitlines()
    assert bytes.fromhex("".join(line[6:53] for line in lines if not line.startswith("    "))) == one.frame
    assert lines[2:6] == [
        "0020  00 0a 30 39 00 09 00 1c 00 00 00 00 00 00 00 00  ..09............",
        "                                                   ^^                 ^",
        "0030  61 62 51 51 51 51 51 51 51 51 51 51 51 51        abQQQQQQQQQQQQ",
        "      ^^ ^^                                            ^^",
    ]
    shown = sensor("evidence", "show", "1687089600123456", "--evidence", tmp_path, "--json")
    assert bytes.fromhex(shown.objects[0]["frame"]) == one.frame
    assert [layer["name"] for layer in shown.objects[0]["layers"]] == ["Ethernet", "IPv4", "UDP", "Data"]


def test_show_without_evidence(kept: Kept) -> None:
    """A time without evidence is an error with the exit code for evidence."""
    done = sensor("evidence", "show", "2001-01-01T00:00:00.000001", "--evidence", kept[0])
    assert (done.code, done.out) == (6, "")
    assert done.err.startswith("sensor: there is no evidence at 2001-01-01T00:00:00.000001 UTC")


def test_export_by_file_name(kept: Kept, tmp_path: Path) -> None:
    """The suffix selects pcap or pcapng; other suffixes are rejected; a failed export leaves no file."""
    evidence, matches = kept
    threats = len({(m["time_us"], m["sport"]) for m in matches if m["class"] == "threat"})
    paths = [tmp_path / "out.pcap", tmp_path / "out.pcapng"]
    for path in paths:
        done = sensor("evidence", "export", path, "--class", "threat", "--evidence", evidence)
        assert (done.code, done.err) == (0, f"{threats} packets in {path}\n")
    assert capinfos_counts(paths) == [threats, threats]
    assert sensor("evidence", "export", tmp_path / "out.zip", "--evidence", evidence).code == 2
    done = sensor("evidence", "export", tmp_path / "missing" / "out.pcap", "--evidence", evidence)
    assert done.code == 6
    assert "cannot be written: No such file or directory" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pcap", "out.pcapng"]


def test_verify_finds_differences(tmp_path: Path) -> None:
    """Verify finds a packet without a row, a row without a packet, a changed packet and a foreign file."""
    with writing(tmp_path) as writer:
        for window in range(4):
            writer.write(
                block_of_objects([item(number, (NOON_S + 300 * window) * NS) for number in range(5)])
            )
    names = [f"2023061812{minute:02}.pcap" for minute in (0, 5, 10, 15)]
    flags = ("--evidence", tmp_path)
    done = sensor("evidence", "verify", *flags)
    assert (done.code, done.out) == (0, "4 files, 20 packets, 0 faults\n")
    for name, damage in zip(names, (_append, _cut, _swap, _overwrite), strict=True):
        damage(writer.directory / name)
    done = sensor("evidence", "verify", *flags)
    assert done.code == 6
    assert done.out.splitlines() == [
        f"{writer.directory / names[0]} the packet at byte 414 is not in the index",
        f"{writer.directory / names[1]} has no packet at byte 336, but the index does",
        f"{writer.directory / names[2]} has a packet at byte 24 that differs from the index",
        f"{writer.directory / names[3]} cannot be read to its end: {writer.directory / names[3]} is not an"
        " evidence file; move it out of the evidence directory",
        "4 files, 9 packets, 4 faults",
    ]
    objects = [json.loads(line) for line in sensor("evidence", "verify", *flags, "--json").out.splitlines()]
    assert [Path(one["file"]).name for one in objects if one["fault"]] == names


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + path.read_bytes()[-78:])


def _cut(path: Path) -> None:
    os.truncate(path, 24 + 4 * 78)


def _swap(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[24] ^= 1
    path.write_bytes(content)


def _overwrite(path: Path) -> None:
    path.write_bytes(bytes(500))


def test_reindex_finds_what_read_found(kept: Kept, few_rules: Path) -> None:
    """With unchanged rules and short flows, reindexing restores everything but the interface."""
    evidence = kept[0]
    flags = ("--evidence", evidence, "--limit", "100000", "--json")
    before = sensor("evidence", "list", *flags).objects
    done = sensor("evidence", "reindex", "--evidence", evidence, "--rules", few_rules)
    assert (done.code, done.out) == (0, "")
    assert f"{len(before)} packets indexed" in done.err
    after = sensor("evidence", "list", *flags).objects
    assert after == [{**item, "interface": ""} for item in before]
    assert sensor("evidence", "verify", "--evidence", evidence).code == 0


def test_reindex_beside_a_writer_is_rejected(tmp_path: Path) -> None:
    """A directory has one writer at a time; the message names its process."""
    with writing(tmp_path):
        done = sensor("evidence", "reindex", "--evidence", tmp_path)
    assert done.code == 6
    assert f"process {os.getpid()} already writes evidence" in done.err


@pytest.mark.parametrize("command", sorted(evidence_group.commands))
def test_missing_directory(tmp_path: Path, command: str) -> None:
    """Without an evidence directory every command prints advice and ends with the exit code for evidence."""
    arguments = {
        "conversation": ["1"],
        "show": ["2023-06-18"],
        "export": [tmp_path / "out.pcap"],
        "hold": ["--reason", "x"],
        "release": ["x", "--reason", "x"],
    }.get(command, [])
    done = sensor("evidence", command, *arguments, "--evidence", tmp_path / "missing")
    assert done.code == 6
    assert "Traceback" not in done.err
    assert "--evidence" in done.err


@pytest.mark.parametrize(
    "flags",
    [
        ["--since", "yesterday"],
        ["--network", "10.0.0.0/99"],
        ["--network", "example.org"],
        ["--port", "70000"],
        ["--protocol", "smtp"],
        ["--class", "virus"],
        ["--limit", "0"],
        ["--devid", "-1"],
    ],
    ids=" ".join,
)
def test_invalid_filter(tmp_path: Path, flags: list[str]) -> None:
    """An invalid filter is a usage error: exit code 2 and a message."""
    done = sensor("evidence", "list", *flags, "--evidence", tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err.startswith("Usage")


def test_closed_pipe(kept: Kept) -> None:
    """``sensor evidence list | head`` prints no traceback."""
    command = [*SENSOR, "evidence", "list", "--limit", "100000", "--evidence", str(kept[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert process.returncode in (0, 1, -signal.SIGPIPE)
