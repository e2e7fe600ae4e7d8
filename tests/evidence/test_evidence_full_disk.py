"""Full, broken and missing disks: every frame is counted, files stay valid, and writing resumes."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from evidence_samples import (
    DEVID,
    FILE_HEADER_BYTES,
    NOON_S,
    NS,
    PROGRAM_ENVIRONMENT,
    capinfos_counts,
    item,
    names_in,
    numbers_in,
    tcpdump_count,
    writing,
)

from sensor.evidence import writer as evidence_writer
from sensor.evidence.block import block_of_objects
from sensor.evidence.file_name import WINDOW_S

FULL_DISK = Path(__file__).with_name("evidence_full_disk.py")
RECORD_BYTES = 78


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """Limit the file size of this process, so that the kernel cuts writes short as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_that_fills_up_and_gets_room_again(tmp_path: Path) -> None:
    """On a full disk the counters show exactly which frames are written, and two log lines report it."""
    small_disk = tmp_path / "disk"
    small_disk.mkdir()
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    mount_and_run = 'mount -t tmpfs -o size=256k tmpfs "$1" && shift && exec "$@"'
    program = [sys.executable, FULL_DISK, small_disk, tmp_path / "copy"]
    done = subprocess.run(
        [*unshare, "sh", "-c", mount_and_run, "sh", small_disk, *program],
        stdout=subprocess.PIPE,
        check=True,
        env=PROGRAM_ENVIRONMENT,
    )
    result = json.loads(done.stdout)
    [path] = (tmp_path / "copy").glob("*.pcap*")
    assert path.name == "202306181200.pcap"
    assert numbers_in(path) == result["kept"]
    assert result["write_failed"] == result["failed_while_full"] >= 40
    assert tcpdump_count(path) == len(result["kept"]) > 400
    assert capinfos_counts([path]) == [len(result["kept"])]
    failed, resumed = (line for line in result["lines"] if line.startswith("evidence"))
    assert failed.startswith("evidence cannot be written, frames are counted as write_failed: ")
    assert failed.endswith("202306181200.pcap.temp: No space left on device")
    assert resumed.startswith("evidence can be written again")
    # The index had no room either; the next start finds the records without rows.
    (tmp_path / "copy").rename(tmp_path / str(DEVID))
    with writing(tmp_path) as writer:
        [(_, gap)] = writer.reconcile()
    assert gap == (path.name, FILE_HEADER_BYTES, writer.directory.joinpath(path.name).stat().st_size)


def test_room_ends_at_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full at any byte, whole records are kept, and writing resumes after them."""
    monkeypatch.setattr(evidence_writer, "QUIET_S", 0.0)
    for size in range(1, FILE_HEADER_BYTES + 3 * RECORD_BYTES + 1):
        directory = tmp_path / str(size)
        kept = max(size - FILE_HEADER_BYTES, 0) // RECORD_BYTES
        with writing(directory) as writer:
            temp = writer.directory / "202306181200.pcap.temp"
            with room_for(size):
                writer.write(block_of_objects([item(number) for number in range(3)]))
            assert (writer.written, writer.write_failed) == (kept, 3 - kept)
            assert temp.stat().st_size == (FILE_HEADER_BYTES + kept * RECORD_BYTES if kept else 0)
            writer.write(block_of_objects([item(3), item(4)]))
        assert numbers_in(writer.paths[0]) == [*range(kept), 3, 4]


def test_full_disk_leaves_no_empty_file(tmp_path: Path) -> None:
    """A file without records is removed when its window is over."""
    with writing(tmp_path) as writer:
        with room_for(10):
            writer.write(block_of_objects([item()]))
        assert names_in(tmp_path) == ["202306181200.pcap.temp"]
        writer.tick((NOON_S + 2 * WINDOW_S) * NS)
        assert (names_in(tmp_path), writer.paths, writer.write_failed) == ([], [], 1)


def test_one_full_file_does_not_affect_others(tmp_path: Path) -> None:
    """Within a batch, a file that cannot grow does not prevent writes to other files."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(number) for number in range(5)]))
        with room_for(FILE_HEADER_BYTES + 3 * RECORD_BYTES):
            writer.write(block_of_objects([item(5), item(6, (NOON_S + WINDOW_S) * NS), item(7)]))
    assert [numbers_in(path) for path in writer.paths] == [[0, 1, 2, 3, 4], [6]]
    assert (writer.written, writer.write_failed) == (6, 2)


def test_disk_that_alternates_does_not_flood_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a nearly full disk, where writes fail and succeed alternately, there is one log line in total."""
    with writing(tmp_path) as writer:
        for number in range(50):
            writer.write(block_of_objects([item(number)]))
            with room_for(FILE_HEADER_BYTES):
                writer.write(block_of_objects([item(number)]))
    assert (writer.written, writer.write_failed) == (50, 50)
    assert len(caplog.records) == 1


def test_directory_removed_while_writing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its directory evidence is counted as write_failed; it resumes when the directory is back."""
    monkeypatch.setattr(evidence_writer, "QUIET_S", 0.0)
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(0)]))
        shutil.rmtree(writer.directory)
        writer.write(block_of_objects([item(1)]))
        assert (writer.written, writer.write_failed) == (1, 1)
        writer.directory.mkdir()
        writer.write(block_of_objects([item(2)]))
    assert numbers_in(writer.paths[0]) == [2]
    assert "evidence cannot be written" in caplog.text
    assert "evidence can be written again; lost: 1 frame" in caplog.text


def test_tail_that_cannot_be_cut_is_overwritten_or_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk on which a torn record cannot be cut off costs frames, but never the file."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(0)]))
        with monkeypatch.context() as context:
            context.setattr(os, "ftruncate", broken)
            with room_for(FILE_HEADER_BYTES + RECORD_BYTES + 50):
                writer.write(block_of_objects([item(1)]))
            writer.write(block_of_objects([item(2)]))
        writer.write(block_of_objects([item(3)]))
        with monkeypatch.context() as context:
            context.setattr(os, "ftruncate", broken)
            with room_for(FILE_HEADER_BYTES + 2 * RECORD_BYTES + 50):
                writer.write(block_of_objects([item(4)]))
            writer.tick((NOON_S + 2 * WINDOW_S) * NS)
        assert names_in(tmp_path) == ["202306181200.pcap.temp"]
    assert (writer.written, writer.write_failed) == (2, 3)
    with writing(tmp_path) as writer:
        assert writer.recovered == [(tmp_path / str(DEVID) / "202306181200.pcap", 2, 50)]
        assert numbers_in(writer.recovered[0].path) == [0, 3]
