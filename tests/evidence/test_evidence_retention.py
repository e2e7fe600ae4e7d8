"""Retention: only the oldest finished files are deleted, also on a small disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from evidence_samples import NOON_S, NS, PROGRAM_ENVIRONMENT, item, names_in, writing

from sensor.evidence import stored_files
from sensor.evidence.block import block_of_objects
from sensor.evidence.clock_trust import ClockReading
from sensor.evidence.file_name import WINDOW_S
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.retention import DELETED_AT_ONCE, LIMIT_NAMES, Limits, Retention
from sensor.evidence.search import EvidenceSearch, Query

PROGRAM = Path(__file__).with_name("evidence_retention.py")
DAY_S = 86_400
FILE_BYTES = 24 + 16 + 1000
"""Size of a file that `windows` writes."""


@pytest.fixture(autouse=True)
def _list_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_files, "LISTING_S", 0.0)
    monkeypatch.setattr(stored_files, "LISTING_SHARE", 0)


def at(now_s: float) -> ClockReading:
    """Return the reading of a synchronised clock that has not been set since the host was started."""
    return ClockReading(now_s, now_s, is_synchronised=True)


def on_small_disk(disk: Path, size: str, *arguments: str, program: Path = PROGRAM) -> Any:
    """Run the program on its own tmpfs, and return its output."""
    disk.mkdir()
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    mount_and_run = f'mount -t tmpfs -o size={size} tmpfs "$1" && shift && exec "$@"'
    command = [sys.executable, program, disk, *arguments]
    done = subprocess.run(
        [*unshare, "sh", "-c", mount_and_run, "sh", disk, *command],
        stdout=subprocess.PIPE,
        check=True,
        env=PROGRAM_ENVIRONMENT,
    )
    return json.loads(done.stdout)


def test_disk_stays_partly_free(tmp_path: Path) -> None:
    """Writing twice what the disk holds never fails; the newest files are kept, with their rows."""
    result = on_small_disk(tmp_path / "disk", "16m", "40")
    assert (result["written"], result["write_failed"]) == (50_000, 0)
    assert result["least_free"] > 25  # the write-ahead log of the index varies in size
    assert result["files"][-1] == "202306182015.pcap.temp"
    assert 10 < len(result["files"]) < 40
    assert result["indexed"] == [name.removesuffix(".temp") for name in result["files"]]
    assert result["rows"] == 500 * len(result["files"])
    assert result["faults"] == []


def test_inodes_stay_partly_free(tmp_path: Path) -> None:
    """A file system that has bytes but few inodes is kept like a full one: the oldest files are deleted."""
    result = on_small_disk(tmp_path / "disk", "256m,nr_inodes=40", "40")
    assert (result["written"], result["write_failed"]) == (50_000, 0)
    assert result["least_free"] > 50
    assert result["files"][-1] == "202306182015.pcap.temp"
    assert 5 < len(result["files"]) < 24
    assert result["indexed"] == [name.removesuffix(".temp") for name in result["files"]]
    assert result["faults"] == []


def test_no_inodes_without_retention(tmp_path: Path) -> None:
    """Frames that need a new file are counted, and the files that are there stay valid."""
    result = on_small_disk(tmp_path / "disk", "256m,nr_inodes=40", "0")
    assert result["written"] + result["write_failed"] == 50_000
    assert result["write_failed"] % 500 == 0 < result["write_failed"]
    assert result["least_free"] > 50
    assert result["written"] == 500 * len(result["files"])
    assert result["faults"] == []


def test_full_disk_without_retention(tmp_path: Path) -> None:
    """Without retention the same disk fills up; unwritten frames are counted, and the files are valid."""
    result = on_small_disk(tmp_path / "disk", "16m", "0")
    assert result["written"] + result["write_failed"] == 50_000
    assert 15_000 < result["written"] < 35_000
    assert result["files"][0] == "202306181200.pcap"
    assert all("is not in the index" in fault for fault in result["faults"])


def windows(writer: IndexedWriter, count: int, step_s: int = WINDOW_S) -> list[str]:
    """Write ``count`` files, the last of which stays open; return their final names."""
    for number in range(count):
        writer.write(block_of_objects([item(number, (NOON_S + number * step_s) * NS, caplen=1000)]))
        if number < count - 1:
            writer.tick((NOON_S + number * step_s + 2 * WINDOW_S) * NS)
    return [path.name for path in writer.paths]


def retention(writer: IndexedWriter, **limits: float) -> Retention:
    """Return a retention with only these limits."""
    return Retention(writer.directory, Limits(**limits), writer.index.forget)


def test_limit_of_age(tmp_path: Path) -> None:
    """Files older than the limit, by packet time, are deleted together with their databases."""
    with writing(tmp_path) as writer:
        names = windows(writer, 6, DAY_S)
        kept = retention(writer, days=3)
        kept.enforce(at(NOON_S + 3 * DAY_S + WINDOW_S))
        assert len(names_in(tmp_path)) == 6  # the oldest is three days old to the second
        kept.enforce(at(NOON_S + 5 * DAY_S))
        writer.index.commit()
        assert [name.removesuffix(".temp") for name in names_in(tmp_path)] == names[2:]
        assert len(list(EvidenceSearch(tmp_path).iterate(Query()))) == 4
        while writer.index.untidy:
            writer.index.tidy()
        assert len(list(writer.directory.glob("*.sqlite"))) == 4
        kept.enforce(at(NOON_S + 500 * DAY_S))
        assert names_in(tmp_path) == [f"{names[-1]}.temp"]
    assert kept.deleted == dict.fromkeys(LIMIT_NAMES, (0, 0)) | {"age": (5, 5 * FILE_BYTES)}


def test_limit_of_size(tmp_path: Path) -> None:
    """The size includes the index; only as many files as necessary are deleted, the oldest first."""
    with writing(tmp_path) as writer:
        names = windows(writer, 10)
        writer.index.commit()
        index_bytes = sum(path.stat().st_size for path in writer.directory.glob("*.sqlite*"))
        kept = retention(writer, gib=(index_bytes + 4.5 * FILE_BYTES) / 2**30)
        kept.enforce(at(0))
        assert kept.deleted["size"] == (6, 6 * FILE_BYTES)
        assert [name.removesuffix(".temp") for name in names_in(tmp_path)] == names[6:]
        retention(writer, gib=1 / 2**30).enforce(at(0))
        assert names_in(tmp_path) == [f"{names[-1]}.temp"]


def test_few_files_are_deleted_per_call(tmp_path: Path) -> None:
    """A call deletes a limited number of files, so that capture does not wait; the next call continues."""
    with writing(tmp_path) as writer:
        windows(writer, 2 * DELETED_AT_ONCE)
        kept = retention(writer, days=1)
        for left in (DELETED_AT_ONCE, 1, 1):
            kept.enforce(at(NOON_S + 9 * DAY_S))
            assert len(names_in(tmp_path)) == left


def test_other_files_are_never_touched(tmp_path: Path) -> None:
    """Files with other names, directories and other devices are kept, regardless of the limits."""
    minute = "202306181200"
    others = ["notes.txt", f"{minute}.pcap.gz", "20230618120.pcap", f"{minute}.pcapng", f"4/{minute}.pcap"]
    (tmp_path / "3" / "4").mkdir(parents=True)
    (tmp_path / "4").mkdir()
    kept = [tmp_path / "3" / name for name in others] + [tmp_path / "4" / "202306181200.pcap"]
    for path in kept:
        path.write_bytes(bytes(1000))
    with writing(tmp_path) as writer:
        windows(writer, 3)
        for _ in range(3):
            retention(writer, days=1, gib=1e-9, free_percent=90.0).enforce(at(NOON_S + 9 * DAY_S))
    assert all(path.exists() for path in kept)


def test_only_the_open_file_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The open file is never deleted; a log line says that space must be freed."""
    with writing(tmp_path) as writer:
        windows(writer, 1)
        kept = retention(writer, free_percent=100.0)
        for _ in range(3):
            kept.enforce(at(NOON_S))
        assert kept.deleted["free"] == (0, 0)
        assert names_in(tmp_path) == ["202306181200.pcap.temp"]
    assert caplog.text.count("no finished evidence file is left to delete") == 1


def test_directory_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing directory raises no error, so that capture continues."""
    kept = Retention(tmp_path / "gone", Limits(1, 1.0, 5.0), print)
    kept.enforce(at(NOON_S))
    assert kept.failures == 1
    assert "retention: cannot read" in caplog.text
