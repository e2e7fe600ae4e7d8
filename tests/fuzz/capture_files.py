"""Capture files: their frames are read whatever is around them, and damage costs only what comes after it.

A file gives the same frames and the same error however it is buffered, in batches of any size, and
compressed. Some are also read by tshark.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from captures import Frame, as_frames, lengths_and_times, shark_until_damage

from sensor.errors import CaptureFileError
from sensor.files import byte_source
from sensor.files.byte_source import ByteSource
from sensor.files.capture_file import CaptureFile
from tests.fuzz.random_captures import Capture, damaged, random_capture, random_pcapng
from tests.fuzz.rounds import Round

FILES = 150
SHARK_FILES = 2
_HEADER_BYTES = 24
"""Part of a file without frames; damage there may make it a file of another kind."""

Reading = tuple[list[Frame], str]
"""Frames, and the error that ended reading, or an empty text."""


def fuzz(one: Round) -> None:
    """Read random files, sound and damaged, in several ways."""
    with patch.object(ByteSource, "read_after", _read_guarded):
        _read_files(one)


def _read_guarded(
    source: ByteSource,
    rest: memoryview,
    read_after: Callable[[ByteSource, memoryview], memoryview] = ByteSource.read_after,
) -> memoryview:
    """Return what `ByteSource.read_after` returns, in memory of its own, which sanitisers guard."""
    return memoryview(bytearray(read_after(source, rest)))


def _read_files(one: Round) -> None:
    path = one.directory / "capture"
    for _ in range(FILES):
        capture = random_capture(one.rng)
        path.write_bytes(capture.content)
        with one.no_other_error(capture_bin=capture.content):
            found = _read(path, 4096)
            if found != (capture.frames, ""):
                one.fault(
                    f"{_difference(found[0], capture.frames)}; error {found[1]!r}",
                    capture_bin=capture.content,
                )
        one.comparisons += len(capture.frames) + 1
        _read_damaged(one, capture, path)
    for _ in range(SHARK_FILES if shutil.which("tshark") else 0):
        _compare_with_tshark(one, path)


def _read(path: Path, max_frames: int) -> Reading:
    frames: list[Frame] = []
    try:
        with CaptureFile(path) as file:
            for batch in file.batches(max_frames):
                assert 0 < len(batch) <= max_frames
                assert (batch.start >= 0).all()
                assert (batch.start + batch.caplen <= len(batch.buffer)).all()
                frames += as_frames(batch)
            assert file.position_bytes == file.size_bytes
    except CaptureFileError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
        return frames, str(error)
    return frames, ""


def _read_damaged(one: Round, capture: Capture, path: Path) -> None:
    """Read a damaged copy of a file in several ways; all give the same, and all frames before the damage."""
    content, place = damaged(capture.content, one.rng)
    path.write_bytes(content)
    with one.no_other_error(capture_bin=content):
        expected = _read(path, 4096)
        before = [frame for frame, end in zip(capture.frames, capture.ends, strict=True) if end <= place]
        if place >= _HEADER_BYTES and expected[0][: len(before)] != before:
            one.fault(f"{_difference(expected[0], before)} before byte {place}", capture_bin=content)
        small = one.rng.choice((32, 100, 1000, 5000))
        with (
            patch.object(byte_source, "CHUNK_BYTES", small),
        ):
            found = {f"chunks of {small} bytes": _read(path, one.rng.choice((1, 7, 4096)))}
        if content[:2] != b"\x1f\x8b":
            path.write_bytes(gzip.compress(content, 1, mtime=0))
            found["compressed"] = _read(path, 4096)
        for way, reading in found.items():
            if reading != expected:
                errors = f"errors {reading[1]!r} and {expected[1]!r}"
                one.fault(f"{way}: {_difference(reading[0], expected[0])}; {errors}", capture_bin=content)
        one.comparisons += len(found) * (len(expected[0]) + 1)
    compressed, _ = damaged(gzip.compress(capture.content, one.rng.choice((0, 1, 9)), mtime=0), one.rng)
    path.write_bytes(compressed)
    with one.no_other_error(capture_bin=compressed):
        _read(path, 4096)
    one.comparisons += 1


def _compare_with_tshark(one: Round, path: Path) -> None:
    """Compare lengths and times with those that tshark reads, up to the damage at which it ends."""
    capture = random_pcapng(one.rng)
    content = capture.content if one.rng.random() < 0.5 else damaged(capture.content, one.rng, first=12)[0]
    path.write_bytes(content)
    with one.no_other_error(capture_bin=content):
        frames, _ = _read(path, 4096)
        expected, _ = shark_until_damage(path)
        found = [(size, max(size, wirelen)) for _, size, wirelen in lengths_and_times(frames)]
        wanted = [(size, max(size, wirelen)) for _, size, wirelen in expected]
        if content == capture.content and lengths_and_times(frames) != expected:
            one.fault(f"tshark reads {expected}, we {lengths_and_times(frames)}", capture_bin=content)
        if found[: len(wanted)] != wanted:
            one.fault(f"of a damaged file tshark reads {wanted}, we {found}", capture_bin=content)
    one.comparisons += len(expected) + 1


def _difference(found: list[Frame], expected: list[Frame]) -> str:
    """Describe the first difference between two lists of frames."""
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        if one != other:
            return f"frame {number} is {_words(one)} instead of {_words(other)}"
    return f"{len(found)} frames instead of {len(expected)}"


def _words(frame: Frame) -> str:
    return f"{len(frame.data)} bytes {frame.data[:8].hex()} and {frame[1:]}"
