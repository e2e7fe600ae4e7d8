"""The index is written by a process of its own: nothing waits for it, and what it misses is found again."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from indexing import Indexing, faults, indexing
from processes import is_running, wait_until

from sensor.config.settings import Settings
from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.message import MalformedMessageError
from sensor.evidence.search import EvidenceSearch, Query, Stored
from sensor.live import indexer_process, row_sender
from sensor.live.indexer_channel import IndexerReport, parts_of_rows
from sensor.model import Evidence, FiveTuple, LinkType, Match, Rule

NOON_NS = 1_687_089_600_000_000_000
"""2023-06-18 12:00:00 UTC: the start of a window."""
WINDOW_NS = 300_000_000_000
RULE = Rule(7, "service", "Sample", "Sample", "x")
FRAME = bytes.fromhex(
    "00268832facbb04f13e7432e0800"  # Ethernet, IPv4
    "45000030000040004011000000000a010000000a"
    "30390009001c0000"  # UDP, to the discard port
)


def items(count: int, first: int = 0, rule: Rule = RULE, size: int = 62) -> list[Evidence]:
    """Return items with a match, one millisecond apart."""
    return [
        Evidence(
            frame=FRAME + number.to_bytes(8, "big") + bytes(size - len(FRAME) - 8),
            timestamp_ns=NOON_NS + number * 1_000_000,
            wirelen=size,
            linktype=LinkType.ETHERNET,
            interface=1,
            five_tuple=FiveTuple(17, b"\x00\x00\x0a\x01", 12345, b"\x00\x00\x00\x0a", 9),
            vlan=(),
            payload_start=len(FRAME),
            payload_end=size,
            matches=(Match(rule, 0, 4, "1.0"),),
        )
        for number in range(first, first + count)
    ]


def block(count: int, first: int = 0) -> EvidenceBlock:
    """Return a block of `items`."""
    return block_of_objects(items(count, first))


@pytest.fixture
def settings(few_rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings with an empty evidence directory; an indexer that died is replaced at once."""
    monkeypatch.setattr(indexer_process, "BACKOFF_S", 0.0)
    monkeypatch.setattr(
        indexer_process, "MOST_SILENT_TICKS", 1_000_000
    )  # they follow each other quickly here
    return Settings(rules=few_rules, evidence=tmp_path / "evidence", retain_free_percent=0)


def stored(settings: Settings) -> list[Stored]:
    """Return everything the index finds."""
    return list(EvidenceSearch(settings.evidence).iterate(Query()))


def heal(settings: Settings) -> None:
    """Start again, and wait until the index is complete."""
    with indexing(settings) as next_run:
        next_run.tick_until_complete()


def test_rows_arrive_while_evidence_is_written(settings: Settings) -> None:
    """They have the interface's name, and the rules and the digest of the time."""
    other = replace(RULE, rule_id=8, name="Other")
    with indexing(settings) as run:
        run.writer.write(replace(block(10), digest="a" * 64))
        run.tick_until(lambda: run.indexer.report.rows == 10)
        assert len(stored(settings)) == 10
        run.writer.write(replace(block_of_objects(items(10, 10, other)), digest="b" * 64))
        run.tick_until_complete()
        assert run.indexer.figures()[:3] == (20, 0, 0)
    found = stored(settings)
    assert [(one.interface, one.digest[:1], one.rules[0].rule_id) for one in found] == [
        *[("eth1", "a", 7)] * 10,
        *[("eth1", "b", 8)] * 10,
    ]
    assert run.indexer.missing == 0
    assert faults(settings) == []


def test_all_rows_are_inserted_at_the_end(settings: Settings) -> None:
    """The end waits for rows that are on their way, also if the process has only just started."""
    with indexing(settings) as run:
        for first in range(0, 30_000, 1000):
            run.writer.write(block(1000, first))
    assert run.indexer.report[1:4] == (30_000, 30_000, 0)
    assert len(stored(settings)) == 30_000
    assert faults(settings) == []


def test_a_killed_indexer_is_replaced(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Rows that it took along are found in the files, while evidence is written."""
    with indexing(settings) as run:
        run.writer.write(block(100))
        run.tick_until(lambda: run.indexer.report.rows == 100)
        first = run.signal(signal.SIGSTOP)
        run.writer.write(block(100, 100))
        run.signal(signal.SIGKILL)
        wait_until(lambda: not is_running(first))
        run.tick_until(lambda: run.indexer.pid != first)
        run.writer.write(block(100, 200))
        run.tick_until(lambda: len(stored(settings)) == 300)
        run.tick_until(lambda: not run.indexer.report.is_reindexing)
        assert run.indexer.missing == 100
        assert run.indexer.report.rows == 300
    assert "the indexer died (exit code -9)" in caplog.text
    assert faults(settings) == []


def test_a_stopped_indexer_is_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for it; rows beyond the size of the channel are counted, and the log says so once."""
    monkeypatch.setattr(row_sender, "CHANNEL_BYTES", 1 << 18)
    with indexing(settings) as run:
        run.tick_until_complete()
        stopped = run.signal(signal.SIGSTOP)
        for first in range(0, 10_000, 1000):
            run.writer.write(block(1000, first))
        assert run.writer.written == 10_000
        missing, waiting = run.indexer.missing, run.indexer.report.waiting
        assert missing + waiting == 10_000
        assert 0 < waiting < 8_000
        assert caplog.text.count("the index does not keep up") == 1
        monkeypatch.setattr(indexer_process, "MOST_SILENT_TICKS", 3)
        run.tick_until(lambda: run.indexer.pid != stopped)
        monkeypatch.setattr(indexer_process, "MOST_SILENT_TICKS", 1_000_000)
        assert not is_running(stopped)
        assert run.indexer.missing == 10_000
    assert "the indexer has stalled and is killed" in caplog.text
    heal(settings)
    assert len(stored(settings)) == 10_000
    assert faults(settings) == []


def test_a_full_channel_leaves_a_gap(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An indexer that goes on after a pause finds the rows that it missed in the files."""
    monkeypatch.setattr(row_sender, "CHANNEL_BYTES", 1 << 18)
    monkeypatch.setattr(indexer_process, "QUIET_S", 0.0)
    with indexing(settings) as run:
        run.signal(signal.SIGSTOP)
        for first in range(0, 10_000, 1000):
            run.writer.write(block(1000, first))
        run.writer.tick(NOON_NS + 2 * WINDOW_NS)  # not even the end of the file is known
        assert run.indexer.missing > 2_000
        run.signal(signal.SIGCONT)
        run.tick_until(lambda: run.indexer.report.rows)
        run.tick_until_complete()
        assert len(stored(settings)) == 10_000
    assert faults(settings) == []
    assert "the index keeps up again" in caplog.text


def test_an_indexer_that_stops_at_the_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The end waits as long as there is progress; the next start adds the rest."""
    monkeypatch.setattr(indexer_process, "END_STALLED_S", 0.2)
    with indexing(settings) as run:
        run.tick_until_complete()
        pid = run.signal(signal.SIGSTOP)
        run.writer.write(block(50))
    assert not is_running(pid)
    assert "50 rows not in the index yet; the next start adds them" in caplog.text
    heal(settings)
    assert len(stored(settings)) == 50
    assert faults(settings) == []


def test_deleted_files(settings: Settings) -> None:
    """Rows of files that retention deletes are not found any more, also those on their way."""
    with indexing(settings) as run:
        run.tick_until_complete()
        run.signal(signal.SIGSTOP)
        run.writer.write(block(100))
        run.writer.tick(NOON_NS + 2 * WINDOW_NS)
        [file] = run.device.path.glob("*.pcap")
        file.unlink()
        run.indexer.forget([file.name])
        run.writer.write(block(10, 500_000))
        run.signal(signal.SIGCONT)
        run.tick_until(lambda: len(stored(settings)) == 10)
        run.tick_until_complete()
    assert faults(settings) == []


@pytest.mark.parametrize("sent", [b"garbage", bytes(100), IndexerReport(received=1).pack()], ids="abc")
def test_a_malformed_report(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    sent: bytes,
) -> None:
    """A process that sends something else than a possible report is killed, and its figures do not count."""
    (tmp_path / "sent").write_bytes(sent)
    send = "socket.socket(fileno=int(sys.argv[2])).send(open(sys.argv[1], 'rb').read())"
    program = f"import socket, sys, time; {send}; time.sleep(100)"
    command = [sys.executable, "-c", program, str(tmp_path / "sent")]
    monkeypatch.setattr(indexer_process, "COMMAND", command)
    monkeypatch.setattr(indexer_process, "BACKOFF_S", 60.0)
    monkeypatch.setattr(indexer_process, "END_STALLED_S", 0.0)
    with indexing(settings) as run:
        pid = run.indexer.pid
        run.tick_until(lambda: not is_running(pid))
        assert "the indexer sent a malformed report and is killed" in caplog.text
        assert run.indexer.figures() == (0, 0, 0, None, True)


def test_reports() -> None:
    """A report survives the channel; anything of another size, or an infinite time, is refused."""
    report = IndexerReport(0, 1, 2, 3, 4, 5.5, False, True, 6, 7, 8)
    assert IndexerReport.of(report.pack()) == report
    assert IndexerReport.of(IndexerReport().pack()) == IndexerReport()
    for data in (report.pack() + b"\0", b"", report._replace(changed_s=float("inf")).pack()):
        with pytest.raises(MalformedMessageError):
            IndexerReport.of(data)


def test_parts_of_rows() -> None:
    """A large block is divided; together the parts are the block, each at the offset of its first record."""
    rules = [replace(RULE, rule_id=number) for number in range(1, 30_001)]
    many = tuple(Match(rule, 0, 1, None) for rule in rules)
    evidence = items(2000)
    evidence[1000] = evidence[1000]._replace(matches=many)
    whole = block_of_objects(evidence)
    parts = list(parts_of_rows(24, whole))
    assert len(parts) > 3
    assert max(part.items.nbytes + part.rules.nbytes for _, part in parts) < 130_000
    assert [offset for offset, _ in parts] == [
        24 + 78 * sum(len(part) for _, part in parts[:number]) for number in range(len(parts))
    ]
    assert np.concatenate([part.rules for _, part in parts]).tolist() == whole.rules.tolist()
    assert sum(len(part) for _, part in parts) == 2000


def test_one_indexer_at_a_time(settings: Settings) -> None:
    """While the indexer of a killed sensor still ends, the next one lets its rows wait."""
    with indexing(settings) as run:
        run.writer.write(block(10))
        run.tick_until_complete()
        holder = json.loads((run.device.path / ".index.lock").read_text())
        assert holder == run.indexer.pid
        second = indexer_process.IndexerProcess(settings, run.device.path, {})
        other = Indexing(run.device, second, run.writer)
        second.add("202306181205.pcap", 24, block(1, 300_000))
        other.tick_until(lambda: second.report.failures)
        assert second.report.waiting == 1
        run.indexer.close()
        other.tick_until(lambda: second.report.rows == 1)
        second.close()
