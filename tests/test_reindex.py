"""Reindexing in the background: a child process fills gaps while evidence is written."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from processes import is_running
from reindexing import Reindexing

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.config.settings import Settings
from sensor.evidence.block import EvidenceBlock, joined
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.search import EvidenceSearch, Query, Stored
from sensor.evidence.verify import verify
from sensor.files.capture_file import CaptureFile
from sensor.live import reindexer
from sensor.native.records import write_records
from sensor.pipeline import Pipeline
from sensor.reindex import reindex
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_rules

DEVID = 3


@pytest.fixture
def settings(few_rules: Path, tmp_path: Path) -> Settings:
    """Return settings with a few rules, and with indexed evidence of the demo traffic."""
    settings = Settings(rules=few_rules, evidence=tmp_path / "evidence", retain_free_percent=0)
    write_capture(tmp_path / "capture.pcap", mix.demo(seed=1).frames)
    pipeline = Pipeline(Matcher(load_rules(few_rules)), "any", live=False)
    with (
        closing(IndexedWriter(settings.evidence, DEVID)) as writer,
        CaptureFile(tmp_path / "capture.pcap") as capture,
    ):
        for batch in capture.batches():
            writer.write(pipeline.process(batch))
    return settings


@pytest.fixture
def writer(settings: Settings) -> Iterator[IndexedWriter]:
    """Provide a writer for the same directory."""
    with closing(IndexedWriter(settings.evidence, DEVID)) as writer:
        yield writer


def everything(settings: Settings) -> list[Stored]:
    """Return all items of the index, without what the files do not hold."""
    index = EvidenceSearch(settings.evidence)
    return [stored._replace(interface="", digest="") for stored in index.iterate(Query())]


def faults(settings: Settings) -> list[str]:
    """Return the differences between files and index."""
    return [verdict.fault for verdict in verify(settings.evidence / str(DEVID), DEVID) if verdict.fault]


def pid_of(reindexing: Reindexing) -> int:
    """Return the process id of the reindexer, once it runs."""
    reindexing.tick_until(lambda: reindexing.pid)
    assert reindexing.pid
    return reindexing.pid


def lose_index(writer: IndexedWriter) -> None:
    """Delete the index, as if this had happened between two runs."""
    writer.index.delete()
    writer.index.is_behind = True


def test_lost_index_is_rebuilt_while_evidence_is_written(settings: Settings, writer: IndexedWriter) -> None:
    """Rebuilt rows equal the original ones, and new evidence has rows too."""
    before = everything(settings)
    block = evidence_of_now(settings)
    lose_index(writer)
    with closing(Reindexing(settings, writer)) as reindexing:
        pid_of(reindexing)
        status = EvidenceSearch(settings.evidence).status()["index"]
        assert (status["state"], status["done"] < status["total"]) == ("rebuilding", True)
        writer.write(block)
        reindexing.tick_until(lambda: EvidenceSearch(settings.evidence).status()["index"]["state"] == "ok")
        reindexing.tick_until(lambda: not reindexing.reindexer.is_busy)
    assert everything(settings)[:-1] == before
    assert everything(settings)[-1].time_us == block.items["time_ns"][0] // 1000
    assert faults(settings) == []


def evidence_of_now(settings: Settings) -> EvidenceBlock:
    """Return an item that is newer than all others."""
    pipeline = Pipeline(Matcher(load_rules(settings.rules)), "any", live=False)
    with CaptureFile(settings.evidence.parent / "capture.pcap") as capture:
        block = joined([pipeline.process(batch) for batch in capture.batches()])
    last = block.part(len(block) - 1, len(block))
    last.items["time_ns"] += 3_600_000_000_000
    columns = (last.items[name] for name in ("caplen", "wirelen", "time_ns"))
    return replace(last, records=write_records(last.records[16:], np.zeros(1, np.int64), *columns))


def test_killed_child(
    settings: Settings,
    writer: IndexedWriter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A killed child is logged, and a later one fills the remaining gaps."""
    before = everything(settings)
    lose_index(writer)
    with closing(Reindexing(settings, writer)) as reindexing:
        os.kill(pid_of(reindexing), signal.SIGKILL)
        reindexing.tick_until(lambda: "cannot be completed now" in caplog.text)
        monkeypatch.setattr(reindexer, "PAUSE_S", 0.0)
        assert reindexing.reindexer.remaining_bytes > 0
        reindexing.reindexer._next_s = 0.0
        reindexing.tick_until(lambda: EvidenceSearch(settings.evidence).status()["index"]["state"] == "ok")
    assert everything(settings) == before


def test_end_while_the_child_works(settings: Settings, writer: IndexedWriter) -> None:
    """Closing ends the child; the next start continues."""
    lose_index(writer)
    with closing(Reindexing(settings, writer)) as reindexing:
        pid = pid_of(reindexing)
        assert is_running(pid)
    assert not is_running(pid)
    assert writer.reconcile()


def test_rules_that_cannot_be_loaded(
    settings: Settings,
    writer: IndexedWriter,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """If the rule files were broken after the start, the log says why the index is not complete."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "threat.json").write_text("{")
    lose_index(writer)
    broken = settings.model_copy(update={"rules": tmp_path / "broken"})
    with closing(Reindexing(broken, writer)) as reindexing:
        reindexing.tick_until(lambda: "cannot be completed now" in caplog.text)
    assert re.search(r"the index is not complete: .*threat\.json", capfd.readouterr().err)


def test_file_deleted_while_the_child_works(settings: Settings, writer: IndexedWriter) -> None:
    """If a file is deleted during indexing, its items are not found, and no others are missing."""
    before = everything(settings)
    lose_index(writer)
    with closing(Reindexing(settings, writer)) as reindexing:
        pid_of(reindexing)
        name = min(path.name for path in writer.directory.glob("*.pcap"))
        (writer.directory / name).unlink()
        writer.index.forget([name])
        reindexing.tick_until(lambda: EvidenceSearch(settings.evidence).status()["index"]["state"] == "ok")
        reindexing.tick_until(lambda: not reindexing.reindexer.is_busy)
    assert everything(settings) == [stored for stored in before if stored.path.name != name]
    assert faults(settings) == []


def test_profile_that_labels_once(settings: Settings) -> None:
    """With the ly_probe profile, reindexing keeps one match per class, as ly_probe does."""
    reindex(settings.model_copy(update={"profile": "ly_probe"}), lambda _done, _total: None)
    stored = everything(settings)
    assert any(one.rules for one in stored)
    for one in stored:
        classes = [rule.rule_class for rule in one.rules]
        assert len(classes) == len(set(classes))
