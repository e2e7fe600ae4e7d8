"""The quarantine: each frame in a file that capture tools read, bounded, and never where a link points to."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.quarantine import MOST_FILES, Quarantine, QuarantinedFrame
from sensor.evidence.verify import verify
from sensor.files.capture_file import CaptureFile

FRAME = QuarantinedFrame(b"\2" * 60, 1500, 1_700_000_000_123_456_789)


def files(directory: Path) -> list[Path]:
    """Return the files in the quarantine of a device directory."""
    return sorted((directory / "quarantine").iterdir())


def test_a_file_with_the_frame(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is a capture file with one frame, for the group only, and the log names it."""
    Quarantine(tmp_path).keep(FRAME)
    [path] = files(tmp_path)
    assert str(path) in caplog.text
    assert "please report" in caplog.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    with CaptureFile(path) as file:
        [batch] = file.batches()
        assert bytes(batch.buffer[batch.start[0] : batch.start[0] + batch.caplen[0]]) == FRAME.data
        assert batch.wirelen.tolist() == [1500]
        assert batch.timestamp_ns.tolist() == [1_700_000_000_123_456_000]


@pytest.mark.parametrize("time_ns", [-(1 << 63), -1, (1 << 32) * 1_000_000_000, (1 << 63) - 1])
def test_a_time_that_no_file_can_hold(tmp_path: Path, time_ns: int) -> None:
    """The time at which it was found stands in its place."""
    before_us = time.time_ns() // 1000
    Quarantine(tmp_path).keep(FRAME._replace(time_ns=time_ns))
    with CaptureFile(files(tmp_path)[0]) as file:
        [batch] = file.batches()
        assert before_us <= batch.timestamp_ns[0] // 1000 <= time.time_ns() // 1000


def test_a_frame_shorter_than_it_is(tmp_path: Path) -> None:
    """Its length on the wire is at least what was captured, or no tool would read the file."""
    Quarantine(tmp_path).keep(FRAME._replace(wirelen=0))
    with CaptureFile(files(tmp_path)[0]) as file:
        assert [batch.wirelen.tolist() for batch in file.batches()] == [[60]]


def test_the_number_of_files_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Later frames are not kept, and the log says so; when files are moved away, frames are kept again."""
    quarantine = Quarantine(tmp_path)
    for _ in range(MOST_FILES + 3):
        quarantine.keep(FRAME)
    assert len(files(tmp_path)) == MOST_FILES
    assert caplog.text.count("is not kept") == 3
    files(tmp_path)[0].unlink()
    quarantine.keep(FRAME)
    assert len(files(tmp_path)) == MOST_FILES


@pytest.mark.parametrize("kind", ["link", "file", "FIFO"])
def test_a_directory_that_is_none(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is written elsewhere, nothing waits, and the log has the reason."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    match kind:
        case "link":
            (tmp_path / "quarantine").symlink_to(elsewhere)
        case "file":
            (tmp_path / "quarantine").touch()
        case _:
            os.mkfifo(tmp_path / "quarantine")
    Quarantine(tmp_path).keep(FRAME)
    assert "cannot keep a frame" in caplog.text
    assert list(elsewhere.iterdir()) == []


def test_a_quarantine_is_no_evidence(tmp_path: Path) -> None:
    """The index is complete beside it, and the directory can be written by the next run."""
    with_quarantine = tmp_path / "3"
    writer = IndexedWriter(tmp_path, 3)
    Quarantine(writer.directory).keep(FRAME)
    assert writer.reconcile() == []
    writer.close()
    assert list(verify(with_quarantine, 3)) == []
    assert len(files(with_quarantine)) == 1
