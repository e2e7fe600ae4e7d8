"""Retention: the oldest whole files go, and nothing else does; on a real small disk as well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from evidence_samples import NOON_S, NS, PROGRAM_ENVIRONMENT, item, names_in, writing

from sensor.evidence.evidence_file import WINDOW_S
from sensor.evidence.retention import DELETED_AT_ONCE, Limits, Retention
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.writer import EvidenceWriter

PROGRAM = Path(__file__).with_name("evidence_retention.py")
DAY_S = 86_400
FILE_BYTES = 24 + 16 + 1000
"""Of a file that `windows` writes."""


def on_small_disk(disk: Path, size: str, *arguments: str) -> Any:
    """Run the program on a tmpfs of its own."""
    disk.mkdir()
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    mount_and_run = f'mount -t tmpfs -o size={size} tmpfs "$1" && shift && exec "$@"'
    program = [sys.executable, PROGRAM, disk, *arguments]
    done = subprocess.run(
        [*unshare, "sh", "-c", mount_and_run, "sh", disk, *program],
        stdout=subprocess.PIPE,
        check=True,
        env=PROGRAM_ENVIRONMENT,
    )
    return json.loads(done.stdout)


def test_disk_stays_partly_free(tmp_path: Path) -> None:
    """Twice what the disk holds is written: nothing fails, the newest files are kept, with their rows."""
    result = on_small_disk(tmp_path / "disk", "16m", "40")
    assert (result["written"], result["write_failed"]) == (50_000, 0)
    assert result["least_free"] > 25  # the log of the index comes and goes
    assert result["files"][-1] == "202306182015.pcap.temp"
    assert 10 < len(result["files"]) < 40
    assert result["indexed"] == [name.removesuffix(".temp") for name in result["files"]]
    assert result["rows"] == 500 * len(result["files"])
    assert result["faults"] == []


def test_disk_that_is_full_nevertheless(tmp_path: Path) -> None:
    """Without retention the same disk fills up: what cannot be written is counted, what was is in order."""
    result = on_small_disk(tmp_path / "disk", "16m", "0")
    assert result["written"] + result["write_failed"] == 50_000
    assert 15_000 < result["written"] < 35_000
    assert result["files"][0] == "202306181200.pcap"
    assert all("is not in the index" in fault for fault in result["faults"])


def windows(writer: EvidenceWriter, count: int, step_s: int = WINDOW_S) -> list[str]:
    """Write so many files, the last of which stays open; their final names."""
    for number in range(count):
        writer.write([item(number, (NOON_S + number * step_s) * NS, caplen=1000)])
        if number < count - 1:
            writer.tick((NOON_S + number * step_s + 2 * WINDOW_S) * NS)
    return [path.name for path in writer.paths]


def retention(writer: EvidenceWriter, **limits: float) -> Retention:
    """With these limits alone."""
    return Retention(writer.directory, Limits(**limits), writer.index.forget)


def test_files_that_are_too_old_go(tmp_path: Path) -> None:
    """By the packets' time, whole files, days at once; their databases go too."""
    with writing(tmp_path) as writer:
        names = windows(writer, 6, DAY_S)
        kept = retention(writer, days=3)
        kept.enforce(NOON_S + 3 * DAY_S + WINDOW_S)
        assert len(names_in(tmp_path)) == 6  # the oldest is three days old to the second
        kept.enforce(NOON_S + 5 * DAY_S)
        writer.index.commit()
        assert [name.removesuffix(".temp") for name in names_in(tmp_path)] == names[2:]
        assert len(list(EvidenceSearch(tmp_path).iterate(Query()))) == 4
        while writer.index.untidy:
            writer.index.tidy()
        assert len(list(writer.directory.glob("*.sqlite"))) == 4
        kept.enforce(NOON_S + 500 * DAY_S)
        assert names_in(tmp_path) == [f"{names[-1]}.temp"]
    assert kept.deleted == {"age": (5, 5 * FILE_BYTES), "size": (0, 0), "free": (0, 0)}


def test_no_more_than_so_much_is_kept(tmp_path: Path) -> None:
    """The index counts too; the oldest go first, one after the other, and no more than has to."""
    with writing(tmp_path) as writer:
        names = windows(writer, 10)
        writer.index.commit()
        index_bytes = sum(path.stat().st_size for path in writer.directory.glob("*.sqlite*"))
        kept = retention(writer, gib=(index_bytes + 4.5 * FILE_BYTES) / 2**30)
        kept.enforce(0)
        assert kept.deleted["size"] == (6, 6 * FILE_BYTES)
        assert [name.removesuffix(".temp") for name in names_in(tmp_path)] == names[6:]
        retention(writer, gib=1 / 2**30).enforce(0)
        assert names_in(tmp_path) == [f"{names[-1]}.temp"]


def test_few_files_go_at_once(tmp_path: Path) -> None:
    """However many have to go: the next call goes on, so that capture never waits for long."""
    with writing(tmp_path) as writer:
        windows(writer, 2 * DELETED_AT_ONCE)
        kept = retention(writer, days=1)
        for left in (DELETED_AT_ONCE, 1, 1):
            kept.enforce(NOON_S + 9 * DAY_S)
            assert len(names_in(tmp_path)) == left


def test_what_is_no_evidence_is_never_touched(tmp_path: Path) -> None:
    """Files of other names, directories, other devices: whatever the limits say."""
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
            retention(writer, days=1, gib=1e-9, free_percent=90.0).enforce(NOON_S + 9 * DAY_S)
    assert all(path.exists() for path in kept)


def test_only_the_open_file_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is never deleted, and a line in the log says that room has to be made."""
    with writing(tmp_path) as writer:
        windows(writer, 1)
        kept = retention(writer, free_percent=100.0)
        for _ in range(3):
            kept.enforce(NOON_S)
        assert kept.deleted["free"] == (0, 0)
        assert names_in(tmp_path) == ["202306181200.pcap.temp"]
    assert caplog.text.count("no finished evidence file is left to delete") == 1


def test_directory_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Raises nothing: capture goes on."""
    kept = Retention(tmp_path / "gone", Limits(1, 1.0, 5.0), print)
    kept.enforce(NOON_S)
    assert kept.failures == 1
    assert "cannot be checked for evidence to delete" in caplog.text
