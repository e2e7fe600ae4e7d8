"""The index and the files agree, whatever happened to either: a kill, a lock, a deletion, a power cut."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from evidence_queries import made
from evidence_samples import DEVID, NOON_S, NS, PROGRAM_ENVIRONMENT, item, number_of, writing

from sensor.config.settings import Settings
from sensor.evidence import day_writer, index_writer
from sensor.evidence.evidence_file import WINDOW_S
from sensor.evidence.index_schema import day_of
from sensor.evidence.reconcile import fill
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.verify import verify
from sensor.evidence.writer import EvidenceWriter
from sensor.model import Evidence, Match, Rule
from sensor.reindex import Rematcher

KILLED_WRITER = Path(__file__).with_name("evidence_killed_writer.py")
DATABASE = "20230618.sqlite"
RULE = Rule(7, "threat", "Sample", "Sample", "x")


@pytest.fixture
def rematcher(few_rules: Path) -> Rematcher:
    """What gaps are filled with."""
    return Rematcher(Settings(rules=few_rules))


def complete(writer: EvidenceWriter, rematcher: Rematcher) -> int:
    """Fill all gaps, as a start does in the background; how many packets had no row."""
    parts = list(rematcher.parts(writer.directory, writer.reconcile()))
    assert all(fill(writer.index, *part) for part in parts)
    assert writer.reconcile() == []
    return sum(len(part.located) for part in parts)


def faults(directory: Path) -> list[str]:
    """What `verify` finds."""
    return [verdict.fault for verdict in verify(directory / str(DEVID), DEVID) if verdict.fault]


def items_found(directory: Path) -> list[int]:
    """The numbers of all pieces that the index finds, the oldest first."""
    found = EvidenceSearch(directory)
    return sorted(number_of(found.record(stored)) for stored in found.iterate(Query()))


def hits(count: int, first: int = 0, time_ns: int = NOON_S * NS) -> list[Evidence]:
    """Pieces with a match, a millisecond apart."""
    return [
        item(number, time_ns + number * 1_000_000)._replace(matches=(Match(RULE, 0, 4, "1.0"),))
        for number in range(first, first + count)
    ]


def kill_and_restart(directory: Path, kill_at_bytes: int, rematcher: Rematcher) -> tuple[int, int, int]:
    """Kill a writer at some moment, and start anew: pieces known to be written, kept, and without row."""
    temp = directory / str(DEVID) / "202306181200.pcap.temp"
    command = [sys.executable, KILLED_WRITER, directory, "tick"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=PROGRAM_ENVIRONMENT) as child:
        while child.poll() is None and not (temp.exists() and temp.stat().st_size >= kill_at_bytes):
            pass
        child.kill()
        assert child.stdout is not None
        acknowledged = int((b"0\n" + child.stdout.read()).split()[-1])
    with writing(directory) as writer:
        missing = complete(writer, rematcher)
        [recovery] = writer.recovered
        writer.write([item(recovery.records, NOON_S * NS)])
        writer.tick(NOON_S * NS)
        assert faults(directory) == []
    return acknowledged, recovery.records, missing


def test_kill_leaves_every_row_its_packet_and_the_reverse(tmp_path: Path, rematcher: Rematcher) -> None:
    """A writer killed at any moment, often in a transaction: after the start files and index are the same."""
    rounds = int(os.environ.get("SENSOR_KILLS", "20"))
    seeded = random.Random(2024)
    missed = 0
    for round_ in range(rounds):
        directory = tmp_path / str(round_)
        acknowledged, kept, missing = kill_and_restart(directory, seeded.randrange(1, 10_000_000), rematcher)
        assert kept >= acknowledged
        assert missing <= 200  # that is what was written since the last commit
        assert items_found(directory) == list(range(kept + 1))
        assert faults(directory) == []
        missed += missing
    assert missed, "no kill ever fell between file and index: the test does not test"


def test_lost_index_is_built_anew(tmp_path: Path, rematcher: Rematcher) -> None:
    """From nothing but the files, those of other link types and windows too."""
    with writing(tmp_path) as writer:
        writer.write(hits(30))
        writer.write(hits(5, 30, (NOON_S + WINDOW_S) * NS))
        writer.write([item(35, linktype=101), item(36, (NOON_S + 86_400) * NS)])
    keys = [stored.key for stored in EvidenceSearch(tmp_path).iterate(Query())]
    for path in writer.directory.glob("*.sqlite"):
        path.unlink()
    assert EvidenceSearch(tmp_path).status()["index"]["state"] == "rebuilding"
    with writing(tmp_path) as writer:
        assert complete(writer, rematcher) == 37
    assert faults(tmp_path) == []
    assert [stored.key for stored in EvidenceSearch(tmp_path).iterate(Query())] == keys
    assert EvidenceSearch(tmp_path).status()["index"]["state"] == "ok"


@pytest.mark.parametrize("kind", ["noise", "text", "foreign", "torn", "other version"])
def test_index_that_cannot_be_used_is_moved_aside(
    tmp_path: Path, rematcher: Rematcher, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Torn or foreign: it is kept under another name, said so, and built anew; evidence goes on meanwhile."""
    with writing(tmp_path) as writer:
        writer.write(hits(3000))
    path = writer.directory / DATABASE
    content = path.read_bytes()
    if kind in ("noise", "text"):
        path.write_bytes(os.urandom(20_000) if kind == "noise" else b"Dear diary")
    elif kind == "torn":
        path.write_bytes(content[:8192] + os.urandom(len(content) - 8192))
    else:
        path.unlink(missing_ok=kind == "foreign")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE evidence (id)")
            if kind == "other version":
                connection.execute("PRAGMA user_version = 99")
    damaged = path.read_bytes()
    with writing(tmp_path) as writer:
        writer.write(hits(10, 3000))
        writer.tick(NOON_S * NS)
        complete(writer, rematcher)
    assert faults(tmp_path) == []
    assert items_found(tmp_path) == list(range(3010))
    aside = path.with_name(f"{DATABASE}.bad")
    assert aside.stat().st_size == len(damaged)
    assert f"{path} cannot be used" in caplog.text


def test_index_that_was_in_use_when_the_machine_went_down(
    tmp_path: Path, rematcher: Rematcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was never flushed: after a power cut it is built anew; one that was closed before is trusted."""
    with writing(tmp_path) as writer:
        writer.write(hits(10))
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another-boot\n")
    monkeypatch.setattr(day_writer, "_BOOT_ID", boot_id)
    with writing(tmp_path) as writer:
        assert complete(writer, rematcher) == 0
        writer.write(hits(10, 10))
        writer.tick(NOON_S * NS)
        boot_id.write_text("the-boot-after\n")
        with pytest.raises(day_writer.UnusableError, match="the machine went down"):
            day_writer.DayWriter(writer.directory / DATABASE, day_of(NOON_S * 1_000_000), str)
    assert "cannot be used" not in caplog.text


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else is in the middle of a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_locked_index_neither_stops_nor_slows_evidence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows wait until the lock is gone: one line in the log, nothing lost."""
    monkeypatch.setattr(index_writer, "QUIET_S", 0.0)
    with writing(tmp_path) as writer:
        writer.write(hits(10))
        writer.tick(NOON_S * NS)
        with locked(writer.directory / DATABASE):
            started_s = time.monotonic()
            for first in range(10, 200, 10):
                writer.write(hits(10, first))
                writer.tick(NOON_S * NS)
            assert time.monotonic() - started_s < 5  # it never waits for the lock, whose default is 5 s a try
            assert writer.written == 200
            stuck = writer.index.figures()
            assert (stuck.rows, stuck.waiting) == (10, 190)
            assert stuck.failures >= 19  # one a tick
        writer.tick(NOON_S * NS)
        assert writer.index.figures()[:3] == (200, 0, stuck.failures)
        assert items_found(tmp_path) == list(range(200))
    assert faults(tmp_path) == []
    assert caplog.text.count("cannot be written") == 1
    assert "the index is written again" in caplog.text


def test_rows_given_up_are_found_in_the_files_later(
    tmp_path: Path, rematcher: Rematcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock for too long costs rows, not evidence; they become a gap, which is filled beside the writing."""
    monkeypatch.setattr(index_writer, "KEPT_ITEMS", 50)
    with writing(tmp_path) as writer:
        writer.write(hits(10))
        writer.tick(NOON_S * NS)
        with locked(writer.directory / DATABASE):
            for first in range(10, 100, 10):
                writer.write(hits(10, first))
                writer.tick(NOON_S * NS)
        writer.write(hits(10, 100))
        writer.tick(NOON_S * NS)
        assert writer.index.is_behind
        assert len(items_found(tmp_path)) < 110
        assert EvidenceSearch(tmp_path).status()["index"]["state"] == "rebuilding"
        assert 0 < complete(writer, rematcher) < 100
        writer.write(hits(10, 110))
    assert items_found(tmp_path) == list(range(120))
    assert faults(tmp_path) == []


def test_file_deleted_while_nobody_wrote(tmp_path: Path, rematcher: Rematcher) -> None:
    """Its rows are not found any more after the start; they are deleted by and by, and counted nowhere."""
    with writing(tmp_path) as writer:
        writer.write(hits(3000))
        writer.write(hits(20, 3000, (NOON_S + WINDOW_S) * NS))
    (writer.directory / "202306181200.pcap").unlink()
    with writing(tmp_path) as writer:
        assert complete(writer, rematcher) == 0
        assert items_found(tmp_path) == list(range(3000, 3020))
        assert sum(bin_["total"] for bin_ in histogram(tmp_path)) == 20
        while writer.index.untidy:
            writer.index.tidy()
        assert sum(bin_["total"] for bin_ in histogram(tmp_path)) == 20
    with closing(sqlite3.connect(writer.directory / DATABASE)) as connection:
        for table in ("evidence", "hit"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (20,)
        for table in ("segment", "tally"):
            assert connection.execute(f"SELECT sum(pieces) FROM {table}").fetchone() == (20,)
    assert faults(tmp_path) == []


def histogram(directory: Path) -> list[dict[str, int]]:
    """The hour of all pieces here."""
    start_us = NOON_S * 1_000_000
    return EvidenceSearch(directory).histogram(Query(), start_us, start_us + 3_600_000_000, 10)


def test_directory_that_cannot_be_read_costs_no_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that cannot be listed are not gone: the index stays as it is, and behind."""
    with writing(tmp_path) as writer:
        writer.write(hits(10))
        writer.tick((NOON_S + 2 * WINDOW_S) * NS)
        elsewhere = writer.directory.rename(tmp_path / "elsewhere")
        writer.directory.write_text("no directory")
        assert writer.reconcile() == []
        assert writer.index.is_behind
        assert "cannot be read: Not a directory; the index was not compared with the files" in caplog.text
        writer.directory.unlink()
        elsewhere.rename(writer.directory)
        assert writer.reconcile() == []
        assert not writer.index.is_behind
    assert items_found(tmp_path) == list(range(10))


def test_file_cut_or_grown_while_nobody_wrote(tmp_path: Path, rematcher: Rematcher) -> None:
    """Rows of packets that were cut off go; packets that somebody added get rows."""
    with writing(tmp_path) as writer:
        writer.write(hits(20))
        writer.write(hits(20, 20, (NOON_S + WINDOW_S) * NS))
    cut, grown = (writer.directory / name for name in ("202306181200.pcap", "202306181205.pcap"))
    more = cut.read_bytes()[-5 * 78 :]
    os.truncate(cut, 24 + 12 * 78 + 30)
    with grown.open("ab") as file:
        file.write(more)
    with writing(tmp_path) as writer:
        assert complete(writer, rematcher) == 5
    assert items_found(tmp_path) == [*range(12), *range(15, 40)]
    assert faults(tmp_path) == ["has 30 torn bytes at its end"]


def test_file_replaced_by_garbage(
    tmp_path: Path, rematcher: Rematcher, caplog: pytest.LogCaptureFixture
) -> None:
    """Is said to be, by the start and by `verify`; nothing else is harmed."""
    with writing(tmp_path) as writer:
        writer.write(hits(20))
        writer.write(hits(20, 20, (NOON_S + WINDOW_S) * NS))
    (writer.directory / "202306181200.pcap").write_bytes(os.urandom(5000))
    (writer.directory / "202306181210.pcap").write_bytes(os.urandom(5000))
    with writing(tmp_path) as writer:
        complete(writer, rematcher)
    found = {one.path.name: one.fault for one in verify(tmp_path / str(DEVID), DEVID) if one.fault}
    assert found.keys() == {"202306181200.pcap", "202306181210.pcap"}
    assert all("is not an evidence file" in fault for fault in found.values())
    assert "202306181210.pcap is not an evidence file" in caplog.text


def test_open_file_removed_and_begun_anew(tmp_path: Path, rematcher: Rematcher) -> None:
    """A file of the same name is another file: what the first one had is not found any more."""
    with writing(tmp_path) as writer:
        writer.write(hits(20))
        writer.tick(NOON_S * NS)
        (writer.directory / "202306181200.pcap.temp").unlink()
        writer.write(hits(5, 20))
        writer.tick(NOON_S * NS)
        assert items_found(tmp_path) == list(range(20, 25))
        assert complete(writer, rematcher) == 0
        while writer.index.untidy:
            writer.index.tidy()
    assert items_found(tmp_path) == list(range(20, 25))
    assert faults(tmp_path) == []


def test_ids_that_are_taken(tmp_path: Path) -> None:
    """Packets of one microsecond, at the same place of different files, each have their row."""
    with writing(tmp_path) as writer:
        writer.write([item(1), item(2, linktype=101), item(3, linktype=228)])
    index_ = EvidenceSearch(tmp_path)
    assert len({stored.key for stored in index_.lookup(NOON_S * 1_000_000)}) == 3
    assert faults(tmp_path) == []


def test_local_time_at_the_end_of_summer_time(
    tmp_path: Path, rematcher: Rematcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file has packets of two UTC days: each day's database has its own, also when built anew."""
    monkeypatch.setenv("TZ", "EET-2EEST-3,M3.5.0/2,M10.5.0/3")  # Chisinau: the hour from 2 to 3 comes twice
    time.tzset()
    try:
        midnight_s = 1_698_537_600  # 2023-10-29 00:00 UTC
        times = [midnight_s - 3600, midnight_s, midnight_s - 3590, midnight_s + 10]
        with writing(tmp_path, local_time=True) as writer:
            for number, time_s in enumerate(times):
                writer.write([item(number, time_s * NS)])
                writer.tick(0)
            complete(writer, rematcher)
        assert [path.name for path in writer.directory.glob("*.pcap")] == ["202310290200.pcap"]
        assert faults(tmp_path) == []
        keys = [stored.key for stored in EvidenceSearch(tmp_path).iterate(Query())]
        assert len(keys) == 4
        for path in writer.directory.glob("*.sqlite"):
            path.unlink()
        with writing(tmp_path, local_time=True) as writer:
            complete(writer, rematcher)
        assert [stored.key for stored in EvidenceSearch(tmp_path).iterate(Query())] == keys
        assert faults(tmp_path) == []
    finally:
        monkeypatch.undo()
        time.tzset()


def test_rows_are_committed_without_a_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `sensor read`, where no timer runs: by number, by size, and by time."""
    for name, value in (("COMMIT_ITEMS", 10), ("COMMIT_BYTES", 500), ("COMMIT_S", 0.0)):
        with monkeypatch.context() as patch:
            patch.setattr(index_writer, "COMMIT_S", 1e9)
            directory = tmp_path / name
            with writing(directory) as writer:
                writer.write(hits(3))
                assert not list(writer.directory.glob("*.sqlite"))
                patch.setattr(index_writer, name, value)
                writer.write(hits(10, 3))
                assert items_found(directory) == list(range(13))


def test_many_kinds_of_evidence_are_verified(tmp_path: Path, rematcher: Rematcher) -> None:
    """Times that repeat and step back, tags, IPv6: rows made from the files are at the same places."""
    with writing(tmp_path) as writer:
        writer.write(made(500, seed=3))
    keys = [stored.key for stored in EvidenceSearch(tmp_path).iterate(Query())]
    with writing(tmp_path) as writer:
        writer.index.delete()
        assert complete(writer, rematcher) == 500
    assert [stored.key for stored in EvidenceSearch(tmp_path).iterate(Query())] == keys
    assert faults(tmp_path) == []
