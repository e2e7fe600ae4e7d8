"""Capture files compressed with Zstandard are read as if they were not; damage costs only what follows it."""

from __future__ import annotations

import ctypes
from pathlib import Path

from captures import pcap, read_bytes, some_frames

from sensor.files.zstd_stream import LIBRARY, MAGIC

RAW_LAST_BLOCK = (1 | 4 << 3).to_bytes(3, "little") + b"text"


def compress(data: bytes) -> bytes:
    """Return the data as one frame."""
    library = ctypes.CDLL(LIBRARY)
    library.ZSTD_compress.restype = ctypes.c_size_t
    room = len(data) + 1000
    output = ctypes.create_string_buffer(room)
    size = library.ZSTD_compress(output, ctypes.c_size_t(room), data, ctypes.c_size_t(len(data)), 1)
    return output.raw[:size]


def frame(window_log: int) -> bytes:
    """Return a frame that asks for a window of this size (RFC 8878, 3.1.1.1)."""
    return MAGIC + bytes([0, window_log - 10 << 3]) + RAW_LAST_BLOCK


def test_zstd(tmp_path: Path) -> None:
    """A compressed file has the same packets, with any split into frames."""
    packets = some_frames() * 100
    content = pcap(packets)
    for edges in ([0], [0, 3, 5000], [0, 0, 24]):
        parts = [content[first:end] for first, end in zip(edges, [*edges[1:], len(content)], strict=True)]
        assert read_bytes(tmp_path, b"".join(map(compress, parts))) == (packets, "")


def test_zstd_cut_anywhere(tmp_path: Path) -> None:
    """A file cut at any byte gives the packets that can be decompressed, and an error."""
    packets = some_frames(5)
    content = pcap(packets)
    whole = compress(content[:-60])
    compressed = whole + compress(content[-60:])
    for size in range(20, len(compressed)):
        found, error = read_bytes(tmp_path, compressed[:size])
        assert found == packets[: len(found)]
        assert error
        if size != len(whole):
            assert "its Zstandard data is cut short" in error
    assert found


def test_a_window_that_takes_too_much_memory(tmp_path: Path) -> None:
    """It is refused before memory is allocated."""
    _, error = read_bytes(tmp_path, frame(27))
    assert "starts with 74657874" in error
    for window_log in (28, 31, 41):
        found, error = read_bytes(tmp_path, frame(window_log))
        assert not found
        assert "its Zstandard data is damaged, or needs too much memory" in error
