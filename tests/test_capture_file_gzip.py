"""Capture files compressed with gzip are read as if they were not; damage costs only what comes after it."""

from __future__ import annotations

import gzip
import os
import random
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from captures import START_NS, Frame, as_frames, block, pcap, read_bytes, simple_pcapng, some_frames

from sensor.files import byte_source
from sensor.files.capture_file import CaptureFile

Write = Callable[..., bytes]

both_formats = pytest.mark.parametrize("write", [pcap, simple_pcapng])


def long_frames(count: int = 300) -> list[Frame]:
    """Return frames of a few megabytes in all, which compress to a quarter."""
    dice = random.Random(3)
    return [Frame(bytes(dice.choices(b"abc", k=18_000)), START_NS, 18_000) for _ in range(count)]


@both_formats
def test_gzip(write: Write, tmp_path: Path) -> None:
    """A compressed file has the same frames, with any split into members and anything after the last one."""
    frames = [*some_frames(), *long_frames()]
    content = write(frames)
    middle = len(content) // 3
    split = [content[:0], content[:3], content[3:middle], b"", content[middle:]]
    for members in ([content], split):
        compressed = b"".join(gzip.compress(member, 1, mtime=0) for member in members)
        assert read_bytes(tmp_path, compressed) == (frames, "")
        assert read_bytes(tmp_path, compressed + bytes(100)) == (frames, "")
        assert read_bytes(tmp_path, compressed + b"garbage") == (frames, "")


@both_formats
def test_gzip_cut_anywhere(write: Write, tmp_path: Path) -> None:
    """A file cut at any byte gives the frames that can be decompressed, and an error."""
    frames = some_frames(5)
    compressed = gzip.compress(write(frames), 0, mtime=0)  # level 0 stores the bytes as they are
    for size in range(20, len(compressed)):
        read_frames, error = read_bytes(tmp_path, compressed[:size])
        assert read_frames == frames[: len(read_frames)]
        assert "its gzip data is cut short; frames before it were read" in error
    assert len(read_frames) == len(frames)


@both_formats
def test_gzip_that_is_damaged(write: Write, tmp_path: Path) -> None:
    """Frames before the damage are read, also if only the checksum at the end is wrong."""
    frames = some_frames(5)
    compressed = bytearray(gzip.compress(write(frames), mtime=0))
    compressed[-6] ^= 1
    read_frames, error = read_bytes(tmp_path, bytes(compressed))
    assert read_frames == frames
    assert "its gzip data is damaged" in error
    frames = long_frames()
    compressed = bytearray(gzip.compress(write(frames), 1, mtime=0))
    half = len(compressed) // 2
    compressed[half : half + 5_000] = b"\xff" * 5_000
    read_frames, error = read_bytes(tmp_path, bytes(compressed))
    assert 120 < len(read_frames) < 160
    assert read_frames[:120] == frames[:120]
    assert error


@both_formats
def test_gzip_from_a_pipe(write: Write) -> None:
    """A compressed file can be read from a pipe, in pieces of any size."""
    frames = some_frames()
    reader, writer = os.pipe()

    def send() -> None:
        with os.fdopen(writer, "wb", buffering=0) as file:
            file.write(content[:2])
            for byte in content[2:]:
                file.write(bytes([byte]))

    content = gzip.compress(write(frames), mtime=0)
    thread = threading.Thread(target=send)
    thread.start()
    with CaptureFile(Path(f"/dev/fd/{reader}")) as capture:
        assert [frame for batch in capture.batches() for frame in as_frames(batch)] == frames
    thread.join()
    os.close(reader)


def test_position_in_a_compressed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The position counts compressed bytes, which is what the size of the file counts."""
    monkeypatch.setattr(byte_source, "CHUNK_BYTES", 1 << 20)
    path = tmp_path / "capture"
    path.write_bytes(gzip.compress(pcap(long_frames()), 1, mtime=0))
    with CaptureFile(path) as file:
        positions = [file.position_bytes for _ in file.batches()]
    assert positions == sorted(positions)
    assert 0 < positions[0] < positions[-1] == path.stat().st_size


READ = """
import resource, sys
from pathlib import Path
from sensor.errors import CaptureFileError
from sensor.files.capture_file import CaptureFile
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with CaptureFile(Path(sys.argv[1])) as file:
        print(sum(len(batch) for batch in file.batches()))
except CaptureFileError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("repeated", "mib"),
    [
        (simple_pcapng([Frame(bytes(262_144), START_NS, 262_144)])[-262_180:], 200),
        (simple_pcapng([Frame(b"", START_NS, 0)])[-32:] * 8_000, 200),
        (simple_pcapng([])[28:] * 8_000, 200),
        (simple_pcapng([]) * 4_000, 24),
        (block(0x4321, bytes(262_144)), 200),
        (struct.pack("<II", 0x4321, 0xFFFF_FFF0) * 8_000, 200),
        (bytes(262_144), 200),
    ],
    ids=["frames", "empty frames", "interfaces", "sections", "unknown", "long unknown", "zeros"],
)
def test_gzip_bomb_is_read_in_bounded_memory(repeated: bytes, mib: int, tmp_path: Path) -> None:
    """Hundreds of megabytes compressed to one do not use up memory."""
    path = tmp_path / "bomb"
    compressor = zlib.compressobj(1, wbits=31)
    with path.open("wb") as file:
        file.write(compressor.compress(simple_pcapng([])))
        for _ in range((mib << 20) // len(repeated)):
            file.write(compressor.compress(repeated))
        file.write(compressor.flush())
    assert path.stat().st_size < 8 << 20
    done = subprocess.run([sys.executable, "-c", READ, path], check=True, capture_output=True, text=True)
    used_kib = int(done.stdout.splitlines()[-1])
    assert used_kib < 40 << 10
