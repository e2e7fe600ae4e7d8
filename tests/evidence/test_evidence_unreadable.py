"""Searching evidence of which a part is gone, damaged, foreign or forbidden."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from evidence_samples import item, writing

from sensor.errors import EvidenceError
from sensor.evidence import index_schema
from sensor.evidence.block import block_of_objects
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.verify import verify
from sensor.model import Evidence


def test_file_that_is_gone_or_foreign(kept: tuple[Path, list[Evidence]], tmp_path: Path) -> None:
    """Reading a packet of a missing or foreign file is an error with its name; searches still work."""
    directory = tmp_path / "copy"
    shutil.copytree(kept[0], directory)
    index = EvidenceSearch(directory)
    oldest, *_, newest = index.iterate(Query())
    oldest.path.unlink()
    newest.path.write_bytes(os.urandom(newest.path.stat().st_size))
    with pytest.raises(EvidenceError, match=f"{oldest.path} no longer exists"):
        index.record(oldest)
    with pytest.raises(EvidenceError, match=f"{newest.path} does not have the indexed packet at byte"):
        index.record(newest)
    assert index.search(Query(text=b"index"), 5).items


@pytest.mark.parametrize("content", [b"", b"Dear diary", os.urandom(9000)], ids=["empty", "text", "noise"])
def test_damaged_database(
    kept: tuple[Path, list[Evidence]], tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """A damaged database is logged and skipped; other days are found."""
    directory = tmp_path / "copy"
    shutil.copytree(kept[0], directory)
    (directory / "3" / "20230618.sqlite").write_bytes(content)
    index = EvidenceSearch(directory)
    days = {stored.key.split("-")[1] for stored in index.iterate(Query(devid=3))}
    assert days == {"20230619"}
    assert "20230618.sqlite cannot be read, so its evidence is not found" in caplog.text
    assert index.status()["index"]["state"] == "rebuilding"
    with pytest.raises(EvidenceError, match=r"20230618.sqlite cannot be read .* sensor evidence reindex"):
        index.histogram(Query(devid=3), 0, 1 << 51, 10)
    assert index.histogram(Query(devid=12), 0, 1 << 51, 10)


def test_foreign_database(
    kept: tuple[Path, list[Evidence]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A database of another program with the same name is skipped."""
    directory = tmp_path / "copy"
    shutil.copytree(kept[0], directory)
    path = directory / "3" / "20230618.sqlite"
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE evidence (id)")
    assert {stored.key[:10] for stored in EvidenceSearch(directory).iterate(Query(devid=3))} == {"3-20230619"}
    assert "not an index of this version" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        "evidence SET offset = '1,2'",
        "evidence SET offset = -1",
        "evidence SET caplen = 1 << 40",
        "evidence SET caplen = 1.5",
        "evidence SET source = 'text'",
        "evidence SET source = x'00'",
        "evidence SET payload_end = x'00'",
        "evidence SET rules = 'none'",
        "evidence SET rules = 1.5",
        "evidence SET vlan = 7",
        "evidence SET classes = '[]'",
        "segment SET start = 1.5",
        "segment SET pieces = 'many'",
        "file SET newest = 1 << 62",
        "file SET pieces = '[]'",
        "file SET end = 'end'",
        "file SET name = 7",
        "interface SET name = x'ff'",
        "rule SET text = '[]'",
        "rule_set SET http = 7",
        "tally SET classes = x'ff'",
    ],
)
def test_values_that_no_sensor_writes(kept: tuple[Path, list[Evidence]], tmp_path: Path, change: str) -> None:
    """Damage may give any value another type: the rest is found, and no other error is raised."""
    directory = tmp_path / "copy"
    shutil.copytree(kept[0], directory)
    path = directory / "3" / "20230618.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE OR IGNORE {change}")
    index = EvidenceSearch(directory)
    for stored in index.search(Query(devid=3), 1000).items:
        index.matches([stored])
        list(index.flow(stored))
    with suppress(EvidenceError):
        index.histogram(Query(devid=3), 0, 1 << 51, 10)
    index.status()
    assert {stored.key[:10] for stored in index.iterate(Query(devid=3))} >= {"3-20230619"}
    assert len(list(verify(directory / "3", 3))) > 2
    with writing(directory) as writer:  # which moves the database aside, or uses it
        writer.reconcile()
        writer.write(block_of_objects(kept[1][:50]))
        writer.tick(0)
        writer.index.forget({file.name for file in (directory / "3").glob("*.pcap")})
        for _ in range(9):
            writer.index.tidy()


def test_a_directory_in_the_place_of_an_index(kept: tuple[Path, list[Evidence]], tmp_path: Path) -> None:
    """Searches skip it; a rebuild names it."""
    directory = tmp_path / "copy"
    shutil.copytree(kept[0], directory)
    path = directory / "3" / "20230618.sqlite"
    path.unlink()
    path.mkdir()
    assert {stored.key[:10] for stored in EvidenceSearch(directory).iterate(Query(devid=3))} == {"3-20230619"}
    with (
        writing(directory) as writer,
        pytest.raises(EvidenceError, match=f"{path} is in the place of an index"),
    ):
        writer.index.delete()


def test_index_of_another_version(kept: tuple[Path, list[Evidence]], tmp_path: Path) -> None:
    """A histogram over an index of another version is an error, not an empty result."""
    directory = tmp_path / "copy"
    shutil.copytree(kept[0], directory)
    with closing(sqlite3.connect(directory / "3" / "20230618.sqlite")) as connection:
        connection.execute(f"PRAGMA user_version = {index_schema.VERSION + 1}")
    with pytest.raises(EvidenceError, match="not an index of this version"):
        EvidenceSearch(directory).histogram(Query(), 0, 1 << 51, 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_reader_without_the_right_to_write() -> None:
    """An unprivileged process finds evidence during and after writing, and changes nothing."""
    with TemporaryDirectory() as name:  # other users cannot read pytest's directories
        directory = Path(name)
        with writing(directory) as writer:
            writer.write(block_of_objects([item(1)]))
            writer.tick(0)
            _open_to_all(directory)
            assert _as_nobody(lambda: _items(directory)) == 1
        _open_to_all(directory)
        before = sorted(path.name for path in writer.directory.iterdir())
        assert before == [".index.lock", ".lock", "20230618.sqlite", "202306181200.pcap"]
        assert _as_nobody(lambda: _items(directory)) == 1
        assert sorted(path.name for path in writer.directory.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("which", [".", "3"])
def test_directory_that_cannot_be_read(which: str) -> None:
    """For an unreadable directory, every query raises an error instead of returning nothing."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        with writing(directory) as writer:
            writer.write(block_of_objects([item(1)]))
        _open_to_all(directory)
        index, day = EvidenceSearch(directory), Query(devid=3)
        [stored] = index.search(Query(), 1).items
        queries = (
            index.status,
            lambda: index.lookup(stored.time_us),
            lambda: index.search(day, 5),
            lambda: list(index.iterate(day)),
            lambda: list(index.flow(stored)),
            lambda: index.histogram(day, stored.time_us, stored.time_us + 1, 10),
            lambda: index.get(stored.key),
        )

        def refused() -> int:
            return sum(_is_refused(query, directory) for query in queries)

        assert _as_nobody(refused) == 0
        (directory / which).chmod(0o700)
        assert _as_nobody(refused) == len(queries)


def _is_refused(query: Callable[[], object], directory: Path) -> bool:
    try:
        query()
    except EvidenceError as error:
        return str(error).startswith(str(directory)) and "cannot be read: Permission denied" in str(error)
    return False


def _open_to_all(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _items(directory: Path) -> int:
    return len(EvidenceSearch(directory).search(Query(), 10).items)


def _as_nobody(count: Callable[[], int]) -> int:
    """Return the result of a function that a process of the user nobody calls."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os._exit(count())
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
