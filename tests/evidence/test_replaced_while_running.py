"""Files that somebody removes or replaces while they are written: that is noticed, and writing goes on."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from evidence_samples import NOON_S, NS, item, numbers_in, writing
from indexing import faults, indexing

from sensor.config.settings import Settings
from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.search import EvidenceSearch, Query
from sensor.live import indexer_process

NEXT_WINDOW_NS = (NOON_S + 600) * NS
INDEX, PCAP = "20230618.sqlite", "202306181200.pcap"


@pytest.fixture
def settings(few_rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings with an empty evidence directory; an indexer that died is replaced at once."""
    monkeypatch.setattr(indexer_process, "BACKOFF_S", 0.0)
    monkeypatch.setattr(indexer_process, "MOST_SILENT_TICKS", 1_000_000)
    return Settings(rules=few_rules, evidence=tmp_path / "evidence", retain_free_percent=0)


def block(count: int, first: int = 0) -> EvidenceBlock:
    """Return a block of items, a microsecond apart."""
    return block_of_objects(
        [item(number, NOON_S * NS + number * 1000) for number in range(first, first + count)]
    )


def found(settings: Settings) -> int:
    """Return how many items the index finds."""
    return len(list(EvidenceSearch(settings.evidence).iterate(Query())))


def _overwrite(path: Path, content: bytes = b"Dear diary") -> None:
    new = path.with_name("new")
    new.write_bytes(content)
    new.replace(path)


def _remove_all(path: Path) -> None:
    for one in path.parent.glob("*.sqlite*"):
        one.unlink()


INDEX_LOSSES: dict[str, Callable[[Path], object]] = {
    "database removed": Path.unlink,
    "everything removed": _remove_all,
    "log removed": lambda path: path.with_name(f"{path.name}-wal").unlink(),
    "moved away": lambda path: path.rename(path.with_name("elsewhere")),
    "replaced": _overwrite,
    "replaced by an empty file": lambda path: _overwrite(path, b""),
}


@pytest.mark.parametrize("loss", INDEX_LOSSES)
def test_an_index_that_is_gone(loss: str, settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    """It is built again, also for the file that is open and gets no more evidence."""
    with indexing(settings) as run:
        run.writer.write(block(10))
        run.tick_until(lambda: run.indexer.report.rows == 10)
        INDEX_LOSSES[loss](run.writer.directory / INDEX)
        run.tick_until(lambda: run.indexer.report.failures)
        run.tick_until(lambda: found(settings) == 10)
        run.writer.write(block(10, 10))
        run.tick_until_complete()
        assert found(settings) == 20
    assert faults(settings) == []
    assert f"{INDEX} was removed or replaced" in capfd.readouterr().err


@pytest.mark.parametrize("loss", ["database removed", "replaced", "replaced by an empty file"])
def test_the_index_of_another_day_that_is_gone(loss: str, settings: Settings) -> None:
    """The databases that are not written any more are watched, too."""
    with indexing(settings) as run:
        run.writer.write(block(10))
        run.tick_until(lambda: run.indexer.report.rows == 10)
        for day in range(1, 7):
            run.writer.write(block_of_objects([item(day, (NOON_S + 86_400 * day) * NS)]))
        run.writer.tick(NEXT_WINDOW_NS + 7 * 86_400 * NS)
        run.tick_until_complete()
        INDEX_LOSSES[loss](run.writer.directory / INDEX)
        run.tick_until(lambda: run.indexer.report.failures)
        run.tick_until(lambda: found(settings) == 16)
    assert faults(settings) == []


def test_an_index_from_before_the_start_that_is_gone(settings: Settings) -> None:
    """It is built again, too."""
    with indexing(settings) as run:
        run.writer.write(block(10))
        run.tick_until_complete()
    with indexing(settings) as run:
        run.tick_until(lambda: run.indexer.report.messages and run.is_complete)
        (run.writer.directory / INDEX).unlink()
        run.tick_until(lambda: run.indexer.report.failures)
        run.tick_until(lambda: found(settings) == 10)
    assert faults(settings) == []


FILE_LOSSES: dict[str, tuple[Callable[[Path], object], dict[str, list[int]]]] = {
    "removed": (Path.unlink, {PCAP: [1]}),
    "moved away": (lambda path: path.rename(path.with_name("elsewhere")), {PCAP: [1]}),
    "replaced": (_overwrite, {"202306181200-2.pcap": [1]}),
    "cut": (lambda path: os.truncate(path, 30), {PCAP: [1]}),
}


@pytest.mark.parametrize("loss", FILE_LOSSES)
def test_an_evidence_file_that_is_gone(loss: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Later evidence goes to a new file, and nothing that somebody else has put there is changed."""
    lose, expected = FILE_LOSSES[loss]
    with writing(tmp_path) as writer:
        writer.write(block(1))
        lose(writer.directory / f"{PCAP}.temp")
        writer.write(block(1, 1))
        assert (writer.written, writer.write_failed, writer.replaced) == (2, 0, 1)
    assert {name: numbers_in(writer.directory / name) for name in expected} == expected
    assert f"{PCAP}.temp was removed, replaced or cut" in caplog.text


def test_a_loss_without_traffic_is_noticed(tmp_path: Path) -> None:
    """The timer looks at open files."""
    with writing(tmp_path) as writer:
        writer.write(block(1))
        (writer.directory / f"{PCAP}.temp").unlink()
        writer.tick(NOON_S * NS)
        assert writer.replaced == 1


def test_an_error_that_is_over(tmp_path: Path) -> None:
    """After an error other than a full disk the file is opened again, and continued."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with writing(tmp_path) as writer:
        writer.write(block(1))
        file = (writer.directory / f"{PCAP}.temp").stat()
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.st_size + 30, limits[1]))
        try:
            writer.write(block(1, 1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (writer.written, writer.write_failed) == (1, 1)
        writer.write(block(1, 2))
        assert (writer.written, writer.replaced) == (2, 0)
    assert numbers_in(writer.directory / PCAP) == [0, 2]


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_device_directory_that_is_gone(
    is_moved: bool, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """It is made and locked again at once; no frame is lost, and the index is complete."""
    with indexing(settings) as run:

        def restore() -> None:
            if run.device.restore():
                run.indexer.replace()

        run.writer.restore = restore
        run.writer.write(block(10))
        run.tick_until(lambda: run.indexer.report.rows == 10)
        if is_moved:
            run.writer.directory.rename(run.writer.directory.with_name("elsewhere"))
        else:
            shutil.rmtree(run.writer.directory)
        run.writer.write(block(10, 10))
        assert (run.writer.written, run.writer.write_failed) == (20, 0)
        run.writer.tick(NEXT_WINDOW_NS)
        run.tick_until(lambda: found(settings) == 10)
        assert not run.device.restore()
        run.tick_until_complete()
    assert faults(settings) == []
    assert "it was made again" in caplog.text
