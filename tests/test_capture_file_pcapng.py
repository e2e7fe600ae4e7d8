"""pcapng: all kinds of packet blocks are read, and damage is reported with its place."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pcapng
import pytest
from captures import (
    SECOND_NS,
    START_NS,
    Frame,
    interface,
    packet,
    read_bytes,
    section,
    simple_pcapng,
    some_frames,
    written,
)
from frames import IPV4, PAYLOAD, TCP, ethernet, ipv4, tcp
from pcapng import blocks

from sensor.model import LinkType

HTTP = ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng(order: str, tmp_path: Path) -> None:
    """Enhanced packet blocks in both byte orders keep every nanosecond."""
    frames = some_frames()
    assert read_bytes(tmp_path, simple_pcapng(frames, order)) == (frames, "")


@pytest.mark.parametrize(
    ("options", "ticks", "timestamp_ns"),
    [
        ({}, 1_700_000_000_123_456, START_NS + 123_456_000),
        ({"if_tsresol": b"\x06"}, 1_700_000_000_123_456, START_NS + 123_456_000),
        ({"if_tsresol": b"\x09"}, START_NS + 123_456_789, START_NS + 123_456_789),
        ({"if_tsresol": b"\x00"}, 1_700_000_000, START_NS),
        ({"if_tsresol": b"\x0c"}, 1_700_000 * 10**12 + 1_999, START_NS // 1000 + 1),
        ({"if_tsresol": b"\x94"}, (1_700_000_000 << 20) + 1, START_NS + 953),
        ({"if_tsresol": b"\x09", "if_tsoffset": 1_700_000_000}, 5, START_NS + 5),
        ({"if_tsresol": b"\x09", "if_tsoffset": -100}, START_NS, START_NS - 100 * SECOND_NS),
    ],
)
def test_pcapng_resolutions(options: dict[str, Any], ticks: int, timestamp_ns: int, tmp_path: Path) -> None:
    """Ticks are converted to nanoseconds with the resolution and offset of the interface, without floats."""
    header = section()
    interface(header, **options)
    frame = Frame(HTTP, timestamp_ns, len(HTTP))
    assert read_bytes(tmp_path, written((header, [packet(header, frame, ticks)]))) == ([frame], "")


def test_pcapng_kinds_of_packet_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simple blocks, which have no time and are cut to the snaplen, and obsolete blocks are read."""
    monkeypatch.setattr(pcapng.strictness, "strict_level", pcapng.strictness.Strictness.NONE)
    header = section()
    interface(header, snaplen=60)
    frame = Frame(HTTP[:60], START_NS, len(HTTP))
    members = [
        packet(header, frame, START_NS // 1000, blocks.ObsoletePacket),
        header.new_member(blocks.SimplePacket, packet_len=len(HTTP), packet_data=HTTP[:60]),
        packet(header, frame, START_NS // 1000),
    ]
    assert read_bytes(tmp_path, written((header, members))) == (
        [frame, frame._replace(timestamp_ns=0), frame],
        "",
    )


def test_pcapng_interfaces_and_sections(tmp_path: Path) -> None:
    """Interfaces are numbered through the file; a batch has one link type; frames keep their order."""
    first, second = section("<"), section(">")
    for header, linktypes in ((first, (1, LinkType.LINUX_SLL)), (second, (LinkType.RAW, 1))):
        for linktype in linktypes:
            interface(header, linktype, if_tsresol=b"\x09")
    frames = [
        Frame(HTTP, START_NS, len(HTTP), LinkType.ETHERNET, 0),
        Frame(HTTP, START_NS + 1, len(HTTP), LinkType.ETHERNET, 0),
        Frame(HTTP[:-1], START_NS + 2, len(HTTP), LinkType.LINUX_SLL, 1),
        Frame(HTTP[:-2], START_NS + 3, len(HTTP), LinkType.ETHERNET, 0),
        Frame(HTTP[:-3], START_NS + 4, len(HTTP), LinkType.RAW, 2),
        Frame(HTTP[:-4], START_NS + 5, len(HTTP), LinkType.ETHERNET, 3),
    ]
    content = written(
        (first, [packet(first, frame, frame.timestamp_ns, number=frame.interface) for frame in frames[:4]]),
        (
            second,
            [packet(second, frame, frame.timestamp_ns, number=frame.interface - 2) for frame in frames[4:]],
        ),
    )
    assert read_bytes(tmp_path, content) == (frames, "")


def test_pcapng_unknown_blocks(tmp_path: Path) -> None:
    """Unknown blocks are skipped, as the format requires."""
    frames = some_frames(4)
    content = simple_pcapng(frames)
    unknown = struct.pack("<II8sI", 0x4321, 20, bytes(8), 20)
    assert read_bytes(tmp_path, content + unknown) == (frames, "")


def test_pcapng_cut_in_its_last_block(tmp_path: Path) -> None:
    """A file cut at any byte of its last block gives the frames before it, and an error with the offset."""
    frames = some_frames(5)
    whole, before = simple_pcapng(frames), len(simple_pcapng(frames[:-1]))
    for size in range(before + 1, len(whole)):
        read_frames, error = read_bytes(tmp_path, whole[:size])
        assert read_frames == frames[:-1]
        assert f"ends inside the block at byte {before}" in error


@pytest.mark.parametrize("length", [0, 8, 13, 0x7FFF_FFFC, 0xFFFF_FFFC])
def test_pcapng_damaged_in_a_length(length: int, tmp_path: Path) -> None:
    """An impossible block length is an error, and does not use up memory."""
    frames = some_frames(4)
    content = simple_pcapng(frames)
    read_frames, error = read_bytes(tmp_path, content + struct.pack("<II", 6, length) + bytes(1 << 20))
    assert read_frames == frames
    assert f"block at byte {len(content)}" in error


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (struct.pack("<IIIIIIII", 6, 32, 7, 0, 0, 0, 0, 32), "is damaged"),  # an unknown interface
        (struct.pack("<IIIIIIII", 6, 32, 0, 0, 0, 99, 99, 32), "damaged"),  # a frame longer than its block
        (struct.pack("<IIIIIIII", 6, 32, 0, 0xFFFF_FFFF, 0, 0, 0, 32), "time is out of range"),
        (struct.pack("<III", 1, 12, 12), "damaged"),  # an interface without a description
        (struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 2, 0, -1, 28), "pcapng version 2.0"),
    ],
)
def test_pcapng_damaged_in_a_block(block: bytes, complaint: str, tmp_path: Path) -> None:
    """A block that contradicts the file is an error, after the frames before it."""
    frames = some_frames(4)
    content = simple_pcapng(frames)
    read_frames, error = read_bytes(tmp_path, content + block + simple_pcapng(frames))
    assert read_frames == frames
    assert f"block at byte {len(content)}" in error
    assert complaint in error


def test_pcapng_frame_that_is_too_long(tmp_path: Path) -> None:
    """A frame that is longer than the maximum is an error."""
    frames = some_frames(2)
    longest, longer = (Frame(bytes(size), START_NS, size) for size in (262_144, 262_145))
    read_frames, error = read_bytes(tmp_path, simple_pcapng([*frames, longest, longer]))
    assert read_frames == [*frames, longest]
    assert "it claims a frame of 262145 bytes" in error
