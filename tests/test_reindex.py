"""Gaps of the index are filled in the background, by a child process, while evidence is written."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing import active_children
from pathlib import Path

import pytest

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.config.settings import Settings
from sensor.evidence.search import EvidenceSearch, Query, Stored
from sensor.evidence.verify import verify
from sensor.evidence.writer import EvidenceWriter
from sensor.files.capture_file import CaptureFile
from sensor.live import reindexer
from sensor.live.upkeep import Upkeep
from sensor.pipeline import Pipeline
from sensor.reindex import reindex
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_rules

DEVID = 3
TIMEOUT_S = 60


@pytest.fixture
def settings(few_rules: Path, tmp_path: Path) -> Settings:
    """A few rules, and evidence of the demo's traffic, indexed as it was written."""
    settings = Settings(rules=few_rules, evidence=tmp_path / "evidence", retain_free_percent=0)
    write_capture(tmp_path / "capture.pcap", mix.demo(seed=1).frames)
    pipeline = Pipeline(Matcher(load_rules(few_rules)), "any", live=False)
    with (
        closing(EvidenceWriter(settings.evidence, DEVID)) as writer,
        CaptureFile(tmp_path / "capture.pcap") as capture,
    ):
        for batch in capture.batches():
            writer.write(pipeline.process(batch))
    return settings


@pytest.fixture
def writer(settings: Settings) -> Iterator[EvidenceWriter]:
    """Writes to the same directory again."""
    with closing(EvidenceWriter(settings.evidence, DEVID)) as writer:
        yield writer


def everything(settings: Settings) -> list[Stored]:
    """All that the index knows, but for interfaces."""
    index = EvidenceSearch(settings.evidence)
    return [stored._replace(interface="") for stored in index.iterate(Query())]


def faults(settings: Settings) -> list[str]:
    """What is wrong with files and index."""
    return [verdict.fault for verdict in verify(settings.evidence / str(DEVID), DEVID) if verdict.fault]


def tick_until(upkeep: Upkeep, is_so: Callable[[], bool]) -> None:
    """Do the chores until something is so."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        upkeep.tick(0)
        time.sleep(0.001)


def lose_index(writer: EvidenceWriter) -> None:
    """As if somebody had deleted it while nobody wrote."""
    writer.index.delete()
    writer.index.is_behind = True


def test_lost_index_is_built_anew_beside_the_writing(settings: Settings, writer: EvidenceWriter) -> None:
    """Rows made from the files are those that were made live; what comes meanwhile has its rows as well."""
    before = everything(settings)
    item = evidence_of_now(settings)
    lose_index(writer)
    with closing(Upkeep(settings, writer)) as upkeep:
        upkeep.tick(0)
        status = EvidenceSearch(settings.evidence).status()["index"]
        assert (status["state"], status["done"] < status["total"]) == ("rebuilding", True)
        writer.write([item])
        tick_until(upkeep, lambda: EvidenceSearch(settings.evidence).status()["index"]["state"] == "ok")
        tick_until(upkeep, lambda: not active_children())
    assert everything(settings)[:-1] == before
    assert everything(settings)[-1].time_us == item.timestamp_ns // 1000
    assert faults(settings) == []


def evidence_of_now(settings: Settings):
    """A piece that is newer than all others."""
    pipeline = Pipeline(Matcher(load_rules(settings.rules)), "any", live=False)
    with CaptureFile(settings.evidence.parent / "capture.pcap") as capture:
        items = [item for batch in capture.batches() for item in pipeline.process(batch)]
    return items[-1]._replace(timestamp_ns=items[-1].timestamp_ns + 3_600_000_000_000)


def test_child_that_dies(
    settings: Settings,
    writer: EvidenceWriter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Is said, and tried again from where it was."""
    before = everything(settings)
    lose_index(writer)
    with closing(Upkeep(settings, writer)) as upkeep:
        upkeep.tick(0)
        [child] = active_children()
        os.kill(child.pid, signal.SIGKILL)
        tick_until(upkeep, lambda: "cannot be completed now" in caplog.text)
        monkeypatch.setattr(reindexer, "PAUSE_S", 0.0)
        assert upkeep.reindexer.remaining_bytes > 0
        upkeep.reindexer._next_s = 0.0
        tick_until(upkeep, lambda: EvidenceSearch(settings.evidence).status()["index"]["state"] == "ok")
    assert everything(settings) == before


def test_end_while_the_child_works(settings: Settings, writer: EvidenceWriter) -> None:
    """Leaves no process; the next start goes on."""
    lose_index(writer)
    with closing(Upkeep(settings, writer)) as upkeep:
        upkeep.tick(0)
        assert active_children()
    assert not active_children()
    assert writer.reconcile()


def test_rules_that_cannot_be_loaded(
    settings: Settings, writer: EvidenceWriter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody broke the rule files since the start: the log says why the index is not complete."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "threat.json").write_text("{")
    lose_index(writer)
    broken = settings.model_copy(update={"rules": tmp_path / "broken"})
    with closing(Upkeep(broken, writer)) as upkeep:
        tick_until(upkeep, lambda: "cannot be completed now" in caplog.text)
    assert "the index is not complete: " in caplog.text
    assert "threat.json" in caplog.text


def test_file_deleted_while_the_child_works(settings: Settings, writer: EvidenceWriter) -> None:
    """Retention may delete what is being indexed: nothing of it is found, nothing else is missing."""
    before = everything(settings)
    lose_index(writer)
    with closing(Upkeep(settings, writer)) as upkeep:
        upkeep.tick(0)
        name = min(path.name for path in writer.directory.glob("*.pcap"))
        (writer.directory / name).unlink()
        writer.index.forget([name])
        tick_until(upkeep, lambda: EvidenceSearch(settings.evidence).status()["index"]["state"] == "ok")
        tick_until(upkeep, lambda: not active_children())
    assert everything(settings) == [stored for stored in before if stored.path.name != name]
    assert faults(settings) == []


def test_profile_that_labels_once(settings: Settings) -> None:
    """As in ly_probe: of each class one rule, whatever else hits the packet; HTTP as it sees it."""
    reindex(settings.model_copy(update={"profile": "ly_probe"}), lambda _done, _total: None)
    stored = everything(settings)
    assert any(one.matches for one in stored)
    for one in stored:
        classes = [match.rule_class for match in one.matches]
        assert len(classes) == len(set(classes))
