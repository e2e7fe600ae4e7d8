"""Exported evidence as other programs read it: frames, times, lengths, interfaces and comments."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from evidence_queries import random_items
from evidence_samples import DEVID, NOON_S, NS, capinfos_counts, item, tcpdump_count, writing

from sensor.evidence.block import block_of_objects
from sensor.evidence.export import Container, encoded
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.search import EvidenceSearch, Query
from sensor.model import Match, Rule


def tshark(path: Path, *fields: str) -> list[list[str]]:
    """Return the fields that tshark reads from each packet."""
    chosen = [part for field in fields for part in ("-e", field)]
    command = ["tshark", "-r", path, "-T", "fields", "-E", "separator=/t", *chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def exported(directory: Path, container: Container) -> Path:
    """Export all evidence under the directory to a file."""
    path = directory / f"all.{container}"
    path.write_bytes(b"".join(encoded(EvidenceSearch(directory).iterate(Query()), container)))
    return path


def test_pcapng_has_everything(tmp_path: Path) -> None:
    """Pcapng has all link types, interfaces, times in microseconds, both lengths, and the matched rules."""
    rules = [
        Rule(number, "threat", "Sample", f"Söme {number}; more", "x", version=version)
        for number, version in ((50001, None), (50002, "2.4"))
    ]
    comments = [f"threat {rule.rule_id} {rule.name}" for rule in rules]
    kinds = [
        item(1)._replace(interface=1, matches=(Match(rules[0], 0, 1), Match(rules[1], 0, 1))),
        item(2, NOON_S * NS + 123_456_789, caplen=61, wirelen=900)._replace(interface=2),
        item(3, (NOON_S + 1) * NS, caplen=64, linktype=113)._replace(
            interface=1, matches=(Match(rules[0], 0, 1),)
        ),
        item(4, (NOON_S + 2) * NS, caplen=63)._replace(interface=1),
    ]
    writer = IndexedWriter(tmp_path, DEVID, interface_name=lambda index: f"eth{index}")
    writer.write(block_of_objects(kinds))
    writer.close()
    path = exported(tmp_path, "pcapng")
    fields = "frame.time_epoch", "frame.cap_len", "frame.len", "frame.interface_name", "frame.encap_type"
    assert tshark(path, *fields, "frame.comment") == [
        ["1687089600.000000000", "62", "62", "eth1", "1", "; ".join([*comments, f"{comments[1]} 2.4"][::2])],
        ["1687089600.123456000", "61", "900", "eth2", "1", ""],
        ["1687089601.000000000", "64", "64", "eth1", "25", comments[0]],
        ["1687089602.000000000", "63", "63", "eth1", "1", ""],
    ]  # fmt: skip
    assert capinfos_counts([path]) == [4]
    information = subprocess.run(["capinfos", path], capture_output=True, text=True, check=True).stdout
    assert "sensor 0." in information


def test_frames_are_the_same_in_both(tmp_path: Path) -> None:
    """Both formats have the same frames in the order of time, and other programs read them."""
    items = random_items(300, seed=5)
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(items))
    paths = [exported(tmp_path, "pcap"), exported(tmp_path, "pcapng")]
    assert tcpdump_count(paths[0]) == 300
    assert capinfos_counts(paths) == [300, 300]
    dumps = [
        subprocess.run(["tshark", "-r", path, "-x"], capture_output=True, text=True, check=True).stdout
        for path in paths
    ]
    assert dumps[0] == dumps[1]
    times = [row[0] for row in tshark(paths[0], "frame.time_epoch")]
    assert times == sorted(f"{one.timestamp_ns // 1000 / 1e6:.6f}000" for one in items)


def test_comment_of_any_length(tmp_path: Path) -> None:
    """A comment longer than 65,535 bytes is cut between letters; the packet is kept."""
    rules = [Rule(number, "threat", "Sample", "ü" * 250, "x") for number in range(200)]
    with writing(tmp_path) as writer:
        writer.write(
            block_of_objects([item(1)._replace(matches=tuple(Match(rule, 0, 1) for rule in rules)), item(2)])
        )
    path = exported(tmp_path, "pcapng")
    assert capinfos_counts([path]) == [2]
    [[comment], _] = tshark(path, "frame.comment")
    assert len(comment.encode()) in (65_534, 65_535)
    assert comment.startswith("threat 0 ü")


def test_nothing_to_export(tmp_path: Path) -> None:
    """An export without evidence is a valid file without packets."""
    tmp_path.joinpath(str(DEVID)).mkdir()
    for path in (exported(tmp_path, "pcap"), exported(tmp_path, "pcapng")):
        done = subprocess.run(["tshark", "-r", path], capture_output=True, text=True, check=True)
        assert done.stdout == ""


def test_omitted_packets_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Packets of another link type, and packets whose file is gone, are left out with a line in the log."""
    caplog.set_level(logging.WARNING)
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(1), item(2, linktype=101), item(3, (NOON_S + 300) * NS)]))
    (writer.directory / "202306181205.pcap").unlink()
    assert capinfos_counts([exported(tmp_path, "pcap")]) == [1]
    assert "left out of the pcap file: 1 packet of another link type" in caplog.text
    assert "202306181205.pcap no longer exists, so the packet is gone" in caplog.text


@pytest.mark.parametrize("container", ["pcap", "pcapng"])
def test_standard_output(tmp_path: Path, container: Container) -> None:
    """The name ``-`` writes to it what a file would have, and nothing else; other programs read it."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(number) for number in range(20)]))
    command = [sys.executable, "-m", "sensor", "evidence", "export", "-", "--evidence", str(tmp_path)]
    done = subprocess.run([*command, "--format", container], capture_output=True, check=True)
    assert done.stdout == exported(tmp_path, container).read_bytes()
    assert done.stderr == b"20 packets in standard output\n"
    read = ["tshark", "-r", "-", "-T", "fields", "-e", "frame.number"]
    lines = subprocess.run(read, input=done.stdout, capture_output=True, check=True).stdout.split()
    assert len(lines) == 20
    assert not Path("-").exists()
