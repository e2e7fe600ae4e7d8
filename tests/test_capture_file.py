"""Capture files: pcap and pcapng give the same frames, and damage is reported with its place."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from captures import (
    MODIFIED_MAGIC,
    START_NS,
    Frame,
    as_frames,
    lengths_and_times,
    pcap,
    read,
    read_bytes,
    shark,
    simple_pcapng,
    some_frames,
)
from frames import IPV4, PAYLOAD, TCP, ethernet, ipv4, tcp

from sensor.errors import CaptureFileError
from sensor.files.capture_file import CaptureFile
from sensor.model import LinkType

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "pcap"
HTTP = ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD)))

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


@pytest.mark.parametrize("linktype", [*LinkType, 147])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap(order: str, magic: int, linktype: int, tmp_path: Path) -> None:
    """Both byte orders, micro- and nanoseconds, and every link type give the same frames."""
    unit_ns = 1 if magic == 0xA1B23C4D else 1000
    frames = some_frames(linktype=linktype)
    expected = [frame._replace(timestamp_ns=frame.timestamp_ns // unit_ns * unit_ns) for frame in frames]
    assert read_bytes(tmp_path, pcap(frames, order, magic, linktype)) == (expected, "")


@pytest.mark.parametrize(("minor", "is_swapped"), [(0, True), (1, True), (2, True), (3, True), (3, False)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap_of_old_versions(order: str, minor: int, is_swapped: bool, tmp_path: Path) -> None:
    """Before version 2.3 the lengths of a record are swapped; in 2.3 they may be, as libpcap reads them."""
    frames = some_frames()
    content = pcap(frames, order, minor=minor, is_swapped=is_swapped)
    assert read_bytes(tmp_path, content) == (frames, "")
    if shutil.which("tcpdump"):
        command = ["tcpdump", "-nr", str(tmp_path / "capture"), "-w", str(tmp_path / "converted")]
        subprocess.run([*command, "--time-stamp-precision=nano"], check=True, capture_output=True)
        assert read(tmp_path / "converted") == (frames, "")
    _, error = read_bytes(tmp_path, content[:-1])
    assert "ends inside the record" in error


@pytest.mark.parametrize("order", ["<", ">"])
def test_modified_pcap(order: str, tmp_path: Path) -> None:
    """The variant whose record headers have 24 bytes is read, as by libpcap and Wireshark."""
    frames = [
        frame._replace(timestamp_ns=frame.timestamp_ns // 1000 * 1000, wirelen=len(frame.data))
        for frame in some_frames()
    ]
    assert read_bytes(tmp_path, pcap(frames, order, MODIFIED_MAGIC)) == (frames, "")
    if shutil.which("tshark"):
        assert shark(tmp_path / "capture") == lengths_and_times(frames)


def test_pcap_of_many_chunks(tmp_path: Path) -> None:
    """Frames that straddle the chunks in which a file is read are whole, including the longest ones."""
    dice = random.Random(1)
    sizes = [0, 262_144, 1, 262_144, *(dice.randrange(9_000) for _ in range(500)), 262_144, 0]
    frames = [Frame(dice.randbytes(size), START_NS, size) for size in sizes]
    assert read_bytes(tmp_path, pcap(frames)) == (frames, "")


@pytest.mark.parametrize("max_frames", [1, 7, 20, 4096])
def test_batches_have_at_most_max_frames(max_frames: int, tmp_path: Path) -> None:
    """``max_frames`` limits every batch, in pcap and pcapng."""
    frames = some_frames()
    for content in (pcap(frames), simple_pcapng(frames)):
        path = tmp_path / "capture"
        path.write_bytes(content)
        with CaptureFile(path) as file:
            batches = list(file.batches(max_frames))
        rest = range(len(frames), 0, -max_frames)
        assert [len(batch) for batch in batches] == [min(max_frames, left) for left in rest]


def test_linktype_without_its_flags(tmp_path: Path) -> None:
    """The bits for the frame check sequence are not part of the link type."""
    frames = some_frames(3)
    assert read_bytes(tmp_path, pcap(frames, linktype=0x2400_0000 | LinkType.ETHERNET)) == (frames, "")


def test_wirelen_is_never_less_than_caplen(tmp_path: Path) -> None:
    """A record whose wire length is too small gets its captured length instead."""
    frames = [Frame(HTTP, START_NS, 0), Frame(HTTP, START_NS, len(HTTP) - 1)]
    expected = [frame._replace(wirelen=len(HTTP)) for frame in frames]
    assert read_bytes(tmp_path, pcap(frames)) == (expected, "")
    assert read_bytes(tmp_path, simple_pcapng(frames)) == (expected, "")


def test_pcap_without_frames(tmp_path: Path) -> None:
    """A file header alone is a valid capture without frames."""
    assert read_bytes(tmp_path, pcap([])) == ([], "")


def test_pcap_from_a_pipe() -> None:
    """A capture can be read from a pipe, for instance from a program that decompresses it."""
    frames = some_frames()
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(pcap(frames))
    with CaptureFile(Path(f"/dev/fd/{reader}")) as file:
        assert [frame for batch in file.batches() for frame in as_frames(batch)] == frames
    os.close(reader)


def test_pcap_cut_in_its_last_record(tmp_path: Path) -> None:
    """A file cut at any byte of its last record gives the frames before it, and an error with the offset."""
    frames = some_frames(5)
    whole, before = pcap(frames), len(pcap(frames[:-1]))
    for size in range(before + 1, len(whole)):
        read_frames, error = read_bytes(tmp_path, whole[:size])
        assert read_frames == frames[:-1]
        assert f"ends inside the record at byte {before};" in error
        assert "copy the file again" in error


def test_pcap_cut_in_its_header(tmp_path: Path) -> None:
    """A file cut inside its header is reported as such."""
    for size in range(4, 24):
        assert "ends inside its file header" in read_bytes(tmp_path, pcap([])[:size])[1]


@pytest.mark.parametrize("claim", [262_145, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_pcap_damaged_in_a_length(claim: int, tmp_path: Path) -> None:
    """A length too large for a frame is an error, after the frames before it."""
    frames = some_frames(4)
    content = pcap(frames[:2])
    damage = struct.pack("<IIII", 0, 0, claim, 60)
    for rest in (b"", pcap(frames[2:])[24:], bytes(3 << 20)):
        read_frames, error = read_bytes(tmp_path, content + damage + rest)
        assert read_frames == frames[:2]
        assert f"the record at byte {len(content)} claims {claim} bytes" in error


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"", "is empty"),
        (b"\xd4\xc3", "neither pcap nor pcapng"),
        (b'{"threat": {}}', "starts with 7b227468"),
        (b"\x7fELF\2\1\1\0", "starts with 7f454c46"),
        (b"\x1f\x8b\x08\x00\x00", "its gzip data is cut short"),
        (b"\x1f\x8bno deflate", "its gzip data is damaged"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (gzip.compress(gzip.compress(b"", mtime=0), mtime=0), "gunzip it first"),
        (gzip.compress(b"text", mtime=0), "neither pcap nor pcapng (it starts with 74657874)"),
        (b"\x28\xb5\x2f\xfd\x00", "its Zstandard data is cut short"),
        (b"\xfd7zXZ\x00", "unxz it first"),
        (b"BZh91AY", "bunzip2 it first"),
        (b"\xa1\xb2\x3c\x4e" + bytes(20), "editcap -F pcap"),
        (struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 5, 0, 0, 65535, 1), "pcap version 2.5"),
        (struct.pack("<IHHiIII", 0xA1B2C3D4, 1, 2, 0, 0, 65535, 1), "pcap version 1.2"),
    ],
)
def test_foreign_files(content: bytes, advice: str, tmp_path: Path) -> None:
    """A file in another format is rejected with advice."""
    frames, error = read_bytes(tmp_path, content)
    assert frames == []
    assert advice in error


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    """A directory and a missing file are errors with the path and the exit code for capture files."""
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(CaptureFileError, match=f"{path}: {reason}") as caught:
            CaptureFile(path)
        assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    "damage",
    [
        pcap([]) + struct.pack("<IIII", 0, 0, 0xFFFF_FFFF, 60),
        simple_pcapng([]) + struct.pack("<II", 6, 0xFFFF_FFF0),
        simple_pcapng([]) + struct.pack("<II", 6, 11),
    ],
)
def test_damage_does_not_use_up_memory(damage: bytes, tmp_path: Path) -> None:
    """An impossible length is detected before that many bytes are read."""
    path = tmp_path / "capture"
    path.write_bytes(damage + bytes(20 << 20))
    with CaptureFile(path) as file:
        with pytest.raises(CaptureFileError):
            list(file.batches())
        assert file.position_bytes < file.size_bytes / 2


@pytest.mark.parametrize("write", [pcap, simple_pcapng])
def test_long_frames_make_short_batches(write: Callable[..., bytes], tmp_path: Path) -> None:
    """A batch needs a few megabytes at most, even if more frames were allowed."""
    path = tmp_path / "capture"
    path.write_bytes(write([Frame(bytes(262_144), START_NS, 262_144)] * 40))
    with CaptureFile(path) as file:
        assert max(batch.buffer.nbytes for batch in file.batches()) < 10 << 20


@needs_tshark
@pytest.mark.parametrize("write", [pcap, simple_pcapng])
def test_agreement_with_tshark(write: Callable[..., bytes], tmp_path: Path) -> None:
    """Wireshark reads the same times and lengths from the files of these tests."""
    frames, _ = read_bytes(tmp_path, write(some_frames(), order=">"))
    assert len(frames) == 20
    assert lengths_and_times(frames) == shark(tmp_path / "capture")


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference captures are missing")
@pytest.mark.parametrize(
    ("name", "count"), [("sql_inject", 112), ("mining_common", 164), ("dnstun_cobalt_strike", 2086)]
)
def test_reference_captures(name: str, count: int) -> None:
    """Captures of real attacks have the known number of frames, and match Wireshark."""
    frames, error = read(REFERENCE / f"{name}.pcap")
    assert (len(frames), error) == (count, "")
    if shutil.which("tshark"):
        assert lengths_and_times(frames) == shark(REFERENCE / f"{name}.pcap")
