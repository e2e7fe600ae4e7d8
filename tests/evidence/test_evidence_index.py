"""The index agrees with the files after a kill, a lock, a deletion or a power cut."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from evidence_queries import random_items
from evidence_samples import DEVID, NOON_S, NS, PROGRAM_ENVIRONMENT, item, number_of, writing

from sensor.config.settings import Settings
from sensor.evidence import day_writer, index_connection, index_schema, index_writer, waiting_rows
from sensor.evidence.block import block_of_objects
from sensor.evidence.file_name import WINDOW_S
from sensor.evidence.index_schema import day_of
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.reconcile import fill
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.verify import verify
from sensor.model import Evidence, Match, Rule
from sensor.reindex import Rematcher

KILLED_WRITER = Path(__file__).with_name("evidence_killed_writer.py")
DATABASE = "20230618.sqlite"
RULE = Rule(7, "service", "Sample", "Sample", "x")


@pytest.fixture
def rematcher(few_rules: Path) -> Rematcher:
    """Return the object that matches the records of gaps."""
    return Rematcher(Settings(rules=few_rules))


def complete(writer: IndexedWriter, rematcher: Rematcher) -> int:
    """Fill all gaps, as the supervisor does after its start; return how many packets had no row."""
    parts = list(rematcher.parts(writer.directory, writer.reconcile()))
    assert all(fill(writer.index, *part) for part in parts)
    assert writer.reconcile() == []
    return sum(len(part.block) for part in parts)


def faults(directory: Path) -> list[str]:
    """Return the differences that `verify` finds."""
    return [verdict.fault for verdict in verify(directory / str(DEVID), DEVID) if verdict.fault]


def items_found(directory: Path) -> list[int]:
    """Return the numbers of all items that the index finds, sorted."""
    found = EvidenceSearch(directory)
    return sorted(number_of(found.record(stored)) for stored in found.iterate(Query()))


def matching_items(count: int, first: int = 0, time_ns: int = NOON_S * NS) -> list[Evidence]:
    """Return items with a match, one millisecond apart."""
    return [
        item(number, time_ns + number * 1_000_000)._replace(matches=(Match(RULE, 0, 4, "1.0"),))
        for number in range(first, first + count)
    ]


def kill_and_restart(directory: Path, kill_at_bytes: int, rematcher: Rematcher) -> tuple[int, int, int]:
    """Kill a writer, and start another; return how many items were acknowledged, kept, and without a row."""
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
        writer.write(block_of_objects([item(recovery.records, NOON_S * NS)]))
        writer.tick(NOON_S * NS)
        assert faults(directory) == []
    return acknowledged, recovery.records, missing


def test_index_and_files_agree_after_a_kill(tmp_path: Path, rematcher: Rematcher) -> None:
    """After a writer was killed at any moment, often in a transaction, the next start restores the index."""
    rounds = int(os.environ.get("SENSOR_KILLS", "20"))
    seeded = random.Random(2024)
    missed = 0
    for round_ in range(rounds):
        directory = tmp_path / str(round_)
        acknowledged, kept, missing = kill_and_restart(directory, seeded.randrange(1, 10_000_000), rematcher)
        assert kept >= acknowledged
        assert missing <= 200  # those written since the last commit
        assert items_found(directory) == list(range(kept + 1))
        assert faults(directory) == []
        missed += missing
    assert missed, "no kill happened between file and index: the test has no effect"


def test_lost_index_is_rebuilt(tmp_path: Path, rematcher: Rematcher) -> None:
    """The index is rebuilt from the files of all windows and link types, with the same keys."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(30)))
        writer.write(block_of_objects(matching_items(5, 30, (NOON_S + WINDOW_S) * NS)))
        writer.write(block_of_objects([item(35, linktype=101), item(36, (NOON_S + 86_400) * NS)]))
    keys = [stored.key for stored in EvidenceSearch(tmp_path).iterate(Query())]
    for path in writer.directory.glob("*.sqlite"):
        path.unlink()
    assert EvidenceSearch(tmp_path).status()["index"]["state"] == "rebuilding"
    with writing(tmp_path) as writer:
        assert complete(writer, rematcher) == 37
    assert faults(tmp_path) == []
    assert [stored.key for stored in EvidenceSearch(tmp_path).iterate(Query())] == keys
    assert EvidenceSearch(tmp_path).status()["index"]["state"] == "ok"


@pytest.mark.parametrize("kind", ["noise", "text", "foreign", "torn", "older version"])
def test_index_that_cannot_be_used_is_moved_aside(
    tmp_path: Path, rematcher: Rematcher, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """A damaged or foreign index is moved aside and rebuilt, while evidence is written."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(3000)))
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
            if kind == "older version":
                connection.execute(f"PRAGMA application_id = {index_schema.APPLICATION_ID}")
                connection.execute("PRAGMA user_version = 1")
    damaged = path.read_bytes()
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(10, 3000)))
        writer.tick(NOON_S * NS)
        complete(writer, rematcher)
    assert faults(tmp_path) == []
    assert items_found(tmp_path) == list(range(3010))
    aside = path.with_name(f"{DATABASE}.bad")
    assert aside.stat().st_size == len(damaged)
    assert f"{path} cannot be used" in caplog.text
    assert (f"its format is 1, not {index_schema.VERSION}" in caplog.text) == (kind == "older version")


def test_index_that_was_in_use_when_the_machine_went_down(
    tmp_path: Path, rematcher: Rematcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An index that was open during a power cut is not trusted; one that was closed before is."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(10)))
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another-boot\n")
    monkeypatch.setattr(index_connection, "_BOOT_ID", boot_id)
    with writing(tmp_path) as writer:
        assert complete(writer, rematcher) == 0
        writer.write(block_of_objects(matching_items(10, 10)))
        writer.tick(NOON_S * NS)
        boot_id.write_text("the-boot-after\n")
        with pytest.raises(day_writer.UnusableError, match="the host crashed"):
            day_writer.DayWriter(writer.directory / DATABASE, day_of(NOON_S * 1_000_000), str)
    assert "cannot be used" not in caplog.text


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a transaction of another connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_locked_index_neither_stops_nor_slows_evidence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows wait until the lock is released; one log line reports it, and no row is missing."""
    monkeypatch.setattr(index_writer, "QUIET_S", 0.0)
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(10)))
        writer.tick(NOON_S * NS)
        with locked(writer.directory / DATABASE):
            started_s = time.monotonic()
            for first in range(10, 200, 10):
                writer.write(block_of_objects(matching_items(10, first)))
                writer.tick(NOON_S * NS)
            assert time.monotonic() - started_s < 5  # by default SQLite waits 5 s for a lock
            assert writer.written == 200
            stuck = writer.index.figures()
            assert (stuck.rows, stuck.waiting) == (10, 190)
            assert stuck.failures >= 19  # one per tick
        writer.tick(NOON_S * NS)
        assert writer.index.figures()[:3] == (200, 0, stuck.failures)
        assert items_found(tmp_path) == list(range(200))
    assert faults(tmp_path) == []
    assert caplog.text.count("cannot be written") == 1
    assert "the index can be written again" in caplog.text


def test_dropped_rows_are_restored_from_the_files(
    tmp_path: Path, rematcher: Rematcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long lock costs rows, not evidence; they become a gap, which is filled while evidence is written."""
    monkeypatch.setattr(waiting_rows, "KEPT_ROWS", 100)
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(10)))
        writer.tick(NOON_S * NS)
        with locked(writer.directory / DATABASE):
            for first in range(10, 100, 10):
                writer.write(block_of_objects(matching_items(10, first)))
                writer.tick(NOON_S * NS)
        writer.write(block_of_objects(matching_items(10, 100)))
        writer.tick(NOON_S * NS)
        assert writer.index.is_behind
        assert len(items_found(tmp_path)) < 110
        assert EvidenceSearch(tmp_path).status()["index"]["state"] == "rebuilding"
        assert 0 < complete(writer, rematcher) < 100
        writer.write(block_of_objects(matching_items(10, 110)))
    assert items_found(tmp_path) == list(range(120))
    assert faults(tmp_path) == []


def test_file_deleted_between_runs(tmp_path: Path, rematcher: Rematcher) -> None:
    """The rows of a deleted file are not found or counted after the start, and are deleted gradually."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(3000)))
        writer.write(block_of_objects(matching_items(20, 3000, (NOON_S + WINDOW_S) * NS)))
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
    """Return the histogram of the hour after noon."""
    start_us = NOON_S * 1_000_000
    return EvidenceSearch(directory).histogram(Query(), start_us, start_us + 3_600_000_000, 10)


def test_directory_that_cannot_be_read_costs_no_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the files cannot be listed, the index is left as it is, and is compared again later."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(10)))
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


def test_file_cut_or_grown_between_runs(tmp_path: Path, rematcher: Rematcher) -> None:
    """Rows of packets that were cut off are deleted, and packets that were added get rows."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(20)))
        writer.write(block_of_objects(matching_items(20, 20, (NOON_S + WINDOW_S) * NS)))
    cut, grown = (writer.directory / name for name in ("202306181200.pcap", "202306181205.pcap"))
    more = cut.read_bytes()[-5 * 78 :]
    os.truncate(cut, 24 + 12 * 78 + 30)
    with grown.open("ab") as file:
        file.write(more)
    with writing(tmp_path) as writer:
        assert complete(writer, rematcher) == 5
    assert items_found(tmp_path) == [*range(12), *range(15, 40)]
    assert faults(tmp_path) == ["ends with 30 bytes of an incomplete record"]


def test_file_replaced_by_garbage(
    tmp_path: Path, rematcher: Rematcher, caplog: pytest.LogCaptureFixture
) -> None:
    """The start and `verify` report a file replaced by garbage; other evidence is not affected."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(20)))
        writer.write(block_of_objects(matching_items(20, 20, (NOON_S + WINDOW_S) * NS)))
    (writer.directory / "202306181200.pcap").write_bytes(os.urandom(5000))
    (writer.directory / "202306181210.pcap").write_bytes(os.urandom(5000))
    with writing(tmp_path) as writer:
        complete(writer, rematcher)
    found = {one.path.name: one.fault for one in verify(tmp_path / str(DEVID), DEVID) if one.fault}
    assert found.keys() == {"202306181200.pcap", "202306181210.pcap"}
    assert all("is not an evidence file" in fault for fault in found.values())
    assert "202306181210.pcap is not an evidence file" in caplog.text


def test_open_file_removed_and_started_again(tmp_path: Path, rematcher: Rematcher) -> None:
    """The evidence of a removed file is not found, even if a new file has the same name."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(matching_items(20)))
        writer.tick(NOON_S * NS)
        (writer.directory / "202306181200.pcap.temp").unlink()
        writer.write(block_of_objects(matching_items(5, 20)))
        writer.tick(NOON_S * NS)
        assert items_found(tmp_path) == list(range(20, 25))
        assert complete(writer, rematcher) == 0
        while writer.index.untidy:
            writer.index.tidy()
    assert items_found(tmp_path) == list(range(20, 25))
    assert faults(tmp_path) == []


@pytest.mark.parametrize("matches", range(3))
def test_equal_ids(tmp_path: Path, matches: int) -> None:
    """Packets of one microsecond, at the same offset in different files, each have a row."""
    rules = tuple(Match(replace(RULE, rule_id=number), 0, 1) for number in range(1, matches + 1))
    items = [item(1), item(2, linktype=101), item(3, linktype=228)]
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([one._replace(matches=rules) for one in items]))
    index_ = EvidenceSearch(tmp_path)
    assert len({stored.key for stored in index_.lookup(NOON_S * 1_000_000)}) == 3
    assert faults(tmp_path) == []


def test_local_time_at_the_end_of_summer_time(
    tmp_path: Path, rematcher: Rematcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with packets of two UTC days has rows in the databases of both, also after a rebuild."""
    monkeypatch.setenv("TZ", "EET-2EEST-3,M3.5.0/2,M10.5.0/3")  # Chisinau: the hour from 2 to 3 occurs twice
    time.tzset()
    try:
        midnight_s = 1_698_537_600  # 2023-10-29 00:00 UTC
        times = [midnight_s - 3600, midnight_s, midnight_s - 3590, midnight_s + 10]
        with writing(tmp_path, local_time=True) as writer:
            for number, time_s in enumerate(times):
                writer.write(block_of_objects([item(number, time_s * NS)]))
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
    """Without a timer, as in ``sensor read``, rows are committed by number and by time."""
    for name, value in (("COMMIT_ROWS", 20), ("COMMIT_S", 0.0)):
        with monkeypatch.context() as patch:
            patch.setattr(index_writer, "COMMIT_S", 1e9)
            directory = tmp_path / name
            with writing(directory) as writer:
                writer.write(block_of_objects(matching_items(3)))
                assert not list(writer.directory.glob("*.sqlite"))
                patch.setattr(index_writer, name, value)
                writer.write(block_of_objects(matching_items(10, 3)))
                assert items_found(directory) == list(range(13))


def test_many_kinds_of_evidence_are_verified(tmp_path: Path, rematcher: Rematcher) -> None:
    """With repeated and decreasing times, tags and IPv6, rows made from the files have the same keys."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(random_items(500, seed=3)))
    keys = [stored.key for stored in EvidenceSearch(tmp_path).iterate(Query())]
    with writing(tmp_path) as writer:
        writer.index.delete()
        assert complete(writer, rematcher) == 500
    assert [stored.key for stored in EvidenceSearch(tmp_path).iterate(Query())] == keys
    assert faults(tmp_path) == []
