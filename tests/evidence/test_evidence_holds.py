"""Held evidence is deleted by no limit until it is released, and the journal says who held it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path

import pytest
from evidence_samples import NOON_S, NS, item, names_in, writing

from sensor.evidence import stored_files
from sensor.evidence.block import block_of_objects
from sensor.evidence.clock_trust import ClockReading
from sensor.evidence.file_name import WINDOW_S
from sensor.evidence.holds import JOURNAL, append_entry, reading_holds
from sensor.evidence.retention import MOST_BLOCKED, Limits, Retention
from tests.rules.commands import sensor


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an evidence directory with three files, each with one item."""
    monkeypatch.setattr(stored_files, "LISTING_S", 0.0)
    monkeypatch.setattr(stored_files, "LISTING_SHARE", 0)
    with writing(tmp_path) as writer:
        for window in range(3):
            writer.write(block_of_objects([item(window, (NOON_S + window * WINDOW_S) * NS)]))
    return tmp_path


def everything_goes(directory: Path) -> Retention:
    """Return a retention whose limits nothing meets, after it has deleted what it may."""
    retention = Retention(directory / "3", Limits(1, 1e-12, 100.0, 1, 1e-12), len)
    enforce(retention)
    return retention


def enforce(retention: Retention) -> None:
    """Enforce the limits long after the evidence."""
    retention.enforce(ClockReading(NOON_S + 1e7, NOON_S + 1e7, is_synchronised=True))


def pcaps(directory: Path) -> list[str]:
    """Return the names of the evidence files."""
    return [name for name in names_in(directory) if name.endswith(".pcap")]


def test_no_limit_deletes_what_is_held(directory: Path) -> None:
    """A hold survives every limit and the loss of the index; a release ends it; each says who and why."""
    flags = ("--evidence", directory)
    until = "2023-06-18T12:05"
    done = sensor("evidence", "hold", *flags, "--until", until, "--reason", "case 17")
    assert done.code == 0, done.err
    name = done.out.split(":")[0]
    for index in (directory / "3").glob("*.sqlite*"):
        index.unlink()
    retention = everything_goes(directory)
    assert pcaps(directory) == ["202306181200.pcap"]
    [listed] = sensor("evidence", "holds", *flags).out.splitlines()
    assert listed.startswith(f"{name} ")
    assert listed.endswith("devid 3, 1 file, by root: case 17")
    assert sensor("evidence", "release", name, *flags, "--reason", "closed").code == 0
    assert sensor("evidence", "holds", *flags, "--json").out == ""
    enforce(retention)
    assert pcaps(directory) == []
    entries = [json.loads(line) for line in (directory / "3" / JOURNAL).read_text().splitlines()]
    assert [(one["action"], one["by"], one["reason"]) for one in entries] == [
        ("hold", "root", "case 17"),
        ("release", "root", "closed"),
    ]
    assert entries[0]["query"] == f"until_us={(NOON_S + WINDOW_S) * 1_000_000}"


def test_faults_of_holds(directory: Path) -> None:
    """Nothing is held or released by mistake."""
    flags = ("--evidence", directory, "--reason", "x")
    done = sensor("evidence", "hold", *flags, "--port", "1")
    assert (done.code, done.err.count("there is no such evidence")) == (6, 1)
    done = sensor("evidence", "release", "nosuch", *flags)
    assert (done.code, done.err.count("there is no hold nosuch")) == (6, 1)
    assert not (directory / "3" / JOURNAL).exists()


@pytest.mark.parametrize("torn", [b"", b'{"time"', b"\xff\n", b"[]\n", b"{}\n\n"])
def test_a_torn_line_costs_no_hold(directory: Path, torn: bytes) -> None:
    """A process that was killed while it wrote the journal leaves all other lines readable."""
    flags = ("--evidence", directory, "--reason", "x")
    for until in ("2023-06-18T12:05", "2023-06-18T12:10"):
        assert sensor("evidence", "hold", *flags, "--until", until).code == 0
        with (directory / "3" / JOURNAL).open("ab") as journal:
            journal.write(torn)
    everything_goes(directory)
    assert pcaps(directory) == ["202306181200.pcap", "202306181205.pcap"]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_journal_that_is_none(directory: Path, tmp_path: Path, kind: str) -> None:
    """Nothing is deleted while nobody knows what is held."""
    journal = directory / "3" / JOURNAL
    if kind == "link":
        journal.symlink_to(tmp_path / "nothing")
    elif kind == "fifo":
        os.mkfifo(journal)
    else:
        journal.mkdir()
    assert everything_goes(directory).failures > 0
    assert len(pcaps(directory)) == 3
    assert not (tmp_path / "nothing").exists()


def test_a_hold_that_is_being_added(directory: Path) -> None:
    """Retention lets it finish first, but not for ever."""
    done = sensor("evidence", "hold", "--evidence", directory, "--reason", "x", "--until", "2023-06-18T12:05")
    assert done.code == 0
    read, write = os.pipe()
    pid = os.fork()  # a lock of this process would not keep it out
    if pid == 0:
        with (directory / "3" / JOURNAL).open("r+b") as journal:
            fcntl.lockf(journal, fcntl.LOCK_EX)
            os.write(write, b"x")
            signal.pause()
    os.read(read, 1)
    try:
        retention = Retention(directory / "3", Limits(gib=1e-12), len)
        for _ in range(MOST_BLOCKED):
            enforce(retention)
        assert len(pcaps(directory)) == 3
        enforce(retention)
        assert pcaps(directory) == ["202306181200.pcap"]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_entries_of_two_processes(directory: Path) -> None:
    """Both are there."""
    with reading_holds(directory / "3") as holds:
        assert holds == {}
    sensor("evidence", "hold", "--evidence", directory, "--reason", "x")
    with reading_holds(directory / "3") as holds:
        [hold] = holds.values()
    append_entry(directory / "3", hold._replace(hold="other"))
    with reading_holds(directory / "3") as holds:
        assert set(holds) == {hold.hold, "other"}
        assert len(hold.files) == 3
