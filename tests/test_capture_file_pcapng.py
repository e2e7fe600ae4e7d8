"""pcapng: all packet blocks are read, options cost no frames, and damage is reported with its place."""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

import pytest
from captures import (
    ENHANCED_PACKET,
    OBSOLETE_PACKET,
    SECOND_NS,
    START_NS,
    Frame,
    as_frames,
    block,
    interface,
    offset,
    option,
    packet,
    read_bytes,
    resolution,
    section,
    simple_packet,
    simple_pcapng,
    some_frames,
)
from frames import IPV4, PAYLOAD, TCP, ethernet, ipv4, tcp

from sensor.files.capture_file import CaptureFile
from sensor.files.pcapng_reader import INTERFACES_MAX
from sensor.model import LinkType

HTTP = ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD)))
HTTP_FRAME = Frame(HTTP, START_NS, len(HTTP))
LATEST_NS, EARLIEST_NS = (1 << 63) - 1, -(1 << 63)


def in_microseconds(frame: Frame, **options: int) -> bytes:
    """Return a packet block for an interface without options."""
    return packet(frame, frame.timestamp_ns // 1000, **options)


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng(order: str, tmp_path: Path) -> None:
    """Enhanced packet blocks in both byte orders keep every nanosecond."""
    frames = some_frames()
    assert read_bytes(tmp_path, simple_pcapng(frames, order)) == (frames, "")


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_resolutions(order: str, tmp_path: Path) -> None:
    """Ticks become nanoseconds with every resolution and offset, rounded down, without floats."""
    ticks = [0, 1, 999, 1_700_000_000, 1_700_000_000_123_456, START_NS + 7, (1 << 60) + 1, (1 << 64) - 1]
    for seconds in (0, 1_700_000_000, -100, -1_700_000_000_000, (1 << 62), -(1 << 63)):
        for code in range(256):
            exponent = code & 0x7F
            ticks_per_second = 2**exponent if code & 0x80 else 10**exponent
            times_ns = [tick * SECOND_NS // ticks_per_second + seconds * SECOND_NS for tick in ticks]
            options = resolution(code, order) + offset(seconds, order)
            content = section(order) + interface(options=options, order=order)
            content += b"".join(packet(HTTP_FRAME, tick, order=order) for tick in ticks)
            frames, error = read_bytes(tmp_path, content)
            clamped = [max(EARLIEST_NS, min(LATEST_NS, time_ns)) for time_ns in times_ns]
            assert ([frame.timestamp_ns for frame in frames], error) == (clamped, "")


@pytest.mark.parametrize(
    ("options", "ticks", "timestamp_ns"),
    [
        (b"", 1_700_000_000_123_456, START_NS + 123_456_000),
        (resolution(9) + resolution(3), START_NS + 1, START_NS + 1),
        (option(9, b"") + resolution(9), START_NS // 1000, START_NS),
        (option(9, b"\x09\x09"), START_NS // 1000, START_NS),
        (option(14, struct.pack("<i", 5)), START_NS // 1000, START_NS),
        (offset(5) + offset(50), START_NS // 1000, START_NS + 5 * SECOND_NS),
        (option(0, b"") + resolution(9), START_NS // 1000, START_NS),
    ],
)
def test_pcapng_options_of_times(options: bytes, ticks: int, timestamp_ns: int, tmp_path: Path) -> None:
    """The first of equal options counts; one of the wrong length or after the end does not."""
    content = section() + interface(options=options) + packet(HTTP_FRAME, ticks)
    assert read_bytes(tmp_path, content) == ([HTTP_FRAME._replace(timestamp_ns=timestamp_ns)], "")


WRONG_OPTIONS = [
    option(1, b"M\xfcller"),  # a comment that is not UTF-8
    option(2, b"\xb1\xbe\xb5\xd8"),  # a name in GBK
    option(2, b"eth0", length=0xFFFF),  # longer than the block
    option(4, b"\x7f"),  # IPv4 address and mask
    option(5, bytes(range(17))),  # IPv6 address and prefix length
    option(6, b"\0"),  # hardware address
    option(8, b"\0\0\0\1"),  # speed, in 4 bytes instead of 8
    option(11, b""),  # filter
    option(2988, b"\0"),  # a custom option, shorter than its enterprise number
    b"\1",  # shorter than an option's header
]


@pytest.mark.parametrize("wrong", WRONG_OPTIONS)
def test_pcapng_wrong_options_cost_no_frame(wrong: bytes, tmp_path: Path) -> None:
    """Options that are not needed are not read, whatever is wrong with them, in any block."""
    content = section(options=wrong) + interface(options=resolution(9) + wrong)
    content += packet(HTTP_FRAME, START_NS, options=wrong)
    for kind in (4, 5, 9, 10, 0xBAD, 0x4000_0BAD, 0x8000_0001):  # names, statistics, journal, secrets, custom
        content += block(kind, wrong)
    content += packet(HTTP_FRAME, START_NS)
    assert read_bytes(tmp_path, content) == ([HTTP_FRAME, HTTP_FRAME], "")


def test_pcapng_times_out_of_range(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A frame whose time is later than 2262 is read with the latest time, which is logged."""
    late = packet(HTTP_FRAME, 10_000_000_000 * 1_000_000)
    content = section() + interface() + in_microseconds(HTTP_FRAME) + late + in_microseconds(HTTP_FRAME)
    with caplog.at_level(logging.WARNING):
        read_frames = read_bytes(tmp_path, content)
    assert read_frames == ([HTTP_FRAME, HTTP_FRAME._replace(timestamp_ns=LATEST_NS), HTTP_FRAME], "")
    assert "nearest time instead: 1" in caplog.text


def test_pcapng_kinds_of_packet_blocks(tmp_path: Path) -> None:
    """Simple blocks, which have no time and are cut to the snaplen, and obsolete blocks are read."""
    frame = Frame(HTTP[:60], START_NS, len(HTTP))
    content = section() + interface(snaplen=60)
    content += in_microseconds(frame, kind=OBSOLETE_PACKET) + simple_packet(frame) + in_microseconds(frame)
    assert read_bytes(tmp_path, content) == ([frame, frame._replace(timestamp_ns=0), frame], "")


def test_pcapng_interfaces_and_sections(tmp_path: Path) -> None:
    """Interfaces are numbered through the file; a batch has one link type; frames keep their order."""
    frames = [
        Frame(HTTP, START_NS, len(HTTP), LinkType.ETHERNET, 0),
        Frame(HTTP, START_NS + 1, len(HTTP), LinkType.ETHERNET, 0),
        Frame(HTTP[:-1], START_NS + 2, len(HTTP), LinkType.LINUX_SLL, 1),
        Frame(HTTP[:-2], START_NS + 3, len(HTTP), LinkType.ETHERNET, 0),
        Frame(HTTP[:-3], START_NS + 4, len(HTTP), LinkType.RAW, 2),
        Frame(HTTP[:-4], START_NS + 5, len(HTTP), LinkType.ETHERNET, 3),
    ]
    content = b""
    for order, first, linktypes in (("<", 0, (1, LinkType.LINUX_SLL)), (">", 2, (LinkType.RAW, 1))):
        content += section(order)
        for linktype in linktypes:
            content += interface(linktype, options=resolution(9, order), order=order)
        for frame in frames:
            if frame.interface in (first, first + 1):
                content += packet(frame, frame.timestamp_ns, frame.interface - first, order)
    assert read_bytes(tmp_path, content) == (frames, "")


def test_pcapng_many_interfaces(tmp_path: Path) -> None:
    """A section has as many interfaces as it needs, up to a limit that bounds the memory."""
    most = section() + interface() * INTERFACES_MAX
    last = HTTP_FRAME._replace(interface=INTERFACES_MAX - 1)
    content = most + in_microseconds(last, number=INTERFACES_MAX - 1)
    assert read_bytes(tmp_path, content) == ([last], "")
    frames, error = read_bytes(tmp_path, content + interface())
    assert frames == [last]
    assert "too many" in error


def test_pcapng_sections_share_a_batch(tmp_path: Path) -> None:
    """Files that were joined with cat are read in full batches."""
    path = tmp_path / "capture"
    path.write_bytes(simple_pcapng([HTTP_FRAME]) * 100)
    with CaptureFile(path) as file:
        batches = list(file.batches())
    assert [len(batch) for batch in batches] == [100]
    assert batches[0].interface.tolist() == list(range(100))


def test_pcapng_unknown_blocks(tmp_path: Path) -> None:
    """Unknown blocks of any length are skipped, as the format requires."""
    frames = some_frames(4)
    content = simple_pcapng(frames)
    for size in (0, 8, 1 << 20, (16 << 20) - 12, 16 << 20, 20 << 20):
        whole = content + block(0x4321, bytes(size))
        more = b"".join(packet(frame, frame.timestamp_ns) for frame in frames)
        assert read_bytes(tmp_path, whole) == (frames, "")
        assert read_bytes(tmp_path, whole + more) == (frames * 2, "")
        for cut, place in ((whole[:-1], len(content)), (whole + more[:60], len(whole))):
            assert f"ends inside the block at byte {place};" in read_bytes(tmp_path, cut)[1]
        changed = content + block(0x4321, bytes(size), end=4) + more
        assert read_bytes(tmp_path, changed) == (
            frames,
            f"{tmp_path}/capture: the block at byte {len(content)} is damaged "
            "(its length at the end differs from the one at its start); "
            "frames before it were read; copy the file again to get the rest",
        )


def test_pcapng_lengths_without_padding(tmp_path: Path) -> None:
    """A length that leaves out the padding is understood, as Wireshark does."""
    frame = Frame(HTTP[:61], START_NS, len(HTTP))
    length = 32 + 61
    content = section() + interface()
    for lengths in ({"length": length}, {"length": length, "end": length + 3}, {}):
        content += in_microseconds(frame, **lengths)
    content += block(0x4321, b"a", length=13) + in_microseconds(frame)
    assert read_bytes(tmp_path, content) == ([frame] * 4, "")


def test_pcapng_of_many_chunks(tmp_path: Path) -> None:
    """Blocks that straddle the chunks in which a file is read are whole, also with long options."""
    sizes = [0, 262_144, 1, 262_144, *(number * 37 % 9_000 for number in range(500)), 262_144, 0]
    frames = [Frame(os.urandom(size), START_NS, size) for size in sizes]
    content = section() + interface()
    for number, frame in enumerate(frames):
        content += (
            in_microseconds(frame)
            if number % 50
            else packet(frame, START_NS // 1000, options=option(1, bytes(60_000)) * 40)
        )
    assert read_bytes(tmp_path, content) == (frames, "")


def test_pcapng_from_a_pipe() -> None:
    """A pcapng file can be read from a pipe."""
    frames = some_frames()
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(simple_pcapng(frames, ">"))
    with CaptureFile(Path(f"/dev/fd/{reader}")) as capture:
        assert [frame for batch in capture.batches() for frame in as_frames(batch)] == frames
    os.close(reader)


def test_pcapng_cut_anywhere(tmp_path: Path) -> None:
    """A file cut at any byte gives the frames of its whole blocks, and an error with the offset."""
    frames = some_frames(5)
    blocks = [section(), interface(options=resolution(9)), *(packet(f, f.timestamp_ns) for f in frames)]
    whole = b"".join(blocks)
    for number, last in enumerate(blocks):
        before = len(b"".join(blocks[:number]))
        for size in range(before + (1 if number else 4), before + len(last)):
            read_frames, error = read_bytes(tmp_path, whole[:size])
            assert read_frames == frames[: max(0, number - 2)]
            assert f"ends inside the block at byte {before};" in error


@pytest.mark.parametrize("length", [0, 8, 11, 13, 0x7FFF_FFFC, 0xFFFF_FFFC, 0xFFFF_FFFF])
def test_pcapng_damaged_in_a_length(length: int, tmp_path: Path) -> None:
    """An impossible block length is an error, and does not use up memory."""
    frames = some_frames(4)
    content = simple_pcapng(frames)
    for kind in (1, 2, 3, ENHANCED_PACKET):
        damaged = content + struct.pack("<II", kind, length) + bytes(1 << 20)
        read_frames, error = read_bytes(tmp_path, damaged)
        assert read_frames == frames
        assert f"block at byte {len(content)} is damaged (a length of {length} bytes is impossible)" in error


@pytest.mark.parametrize(
    ("damaged", "complaint"),
    [
        (struct.pack("<III", 1, 12, 12), "a length of 12 bytes is impossible"),
        (packet(HTTP_FRAME, 0, end=44), "length at the end differs"),
        (block(5, b"", end=8), "length at the end differs"),
        (section(major=2), "unsupported pcapng version 2.0"),
        (struct.pack("<II", 0x0A0D0D0A, 28) + bytes(20), "00000000 is not a byte order"),
        (struct.pack("<IIIHHqI", 0x0A0D0D0A, 24, 0x1A2B3C4D, 1, 0, -1, 24), "24 bytes is impossible"),
        (struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 32), "length at the end differs"),
        (bytes(16), "a length of 0 bytes is impossible"),
    ],
)
def test_pcapng_damaged_in_a_block(damaged: bytes, complaint: str, tmp_path: Path) -> None:
    """A block that contradicts the file is an error, after the frames before it."""
    frames = some_frames(4)
    content = simple_pcapng(frames)
    read_frames, error = read_bytes(tmp_path, content + damaged + simple_pcapng(frames))
    assert read_frames == frames
    assert f"the block at byte {len(content)} is damaged" in error
    assert complaint in error


@pytest.mark.parametrize(
    ("damaged", "complaint"),
    [
        (packet(HTTP_FRAME, 0, number=7), "names interface 7, the section has 1"),
        (packet(HTTP_FRAME, 0, number=0xFFFF, kind=OBSOLETE_PACKET), "names interface 65535"),
        (section() + simple_packet(HTTP_FRAME), "names interface 0, the section has 0"),
        (struct.pack("<IIIIIIII", 6, 32, 0, 0, 0, 99, 99, 32), "claims a frame of 99 bytes"),
        (struct.pack("<IIIIIIII", 2, 32, 0, 0, 0, 1, 99, 32), "claims a frame of 1 bytes"),
        (struct.pack("<IIIIIIII", 6, 32, 0, 0, 0, 0xFFFF_FFFF, 99, 32), "claims a frame of 4294967295 bytes"),
        (struct.pack("<IIIII", 3, 20, 9, 0, 20), "claims a frame of 9 bytes"),
    ],
)
def test_pcapng_packet_that_contradicts_its_block(damaged: bytes, complaint: str, tmp_path: Path) -> None:
    """It costs only itself: all frames before and after it are read, and then there is an error."""
    frames = some_frames(4)
    content = simple_pcapng(frames)
    read_frames, error = read_bytes(tmp_path, content + damaged + damaged + simple_pcapng(frames))
    assert [frame.data for frame in read_frames] == [frame.data for frame in [*frames, *frames]]
    place = len(content) + (28 if damaged.startswith(section()) else 0)
    assert f"the block at byte {place} is damaged" in error
    assert complaint in error
    assert "packets lost to damage: 2; all others were read" in error


def test_pcapng_frame_that_is_too_long(tmp_path: Path) -> None:
    """A frame that is longer than the maximum is an error."""
    frames = some_frames(2)
    longest, longer = (Frame(bytes(size), START_NS, size) for size in (262_144, 262_145))
    read_frames, error = read_bytes(tmp_path, simple_pcapng([*frames, longest, longer]))
    assert read_frames == [*frames, longest]
    assert "it claims a frame of 262145 bytes" in error
