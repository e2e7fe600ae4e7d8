"""Capture files for tests: written in every variant of the formats, and read by the sensor and by tshark."""

from __future__ import annotations

import io
import itertools
import struct
import subprocess
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pcapng
from frames import corpus
from pcapng import blocks

from sensor.errors import CaptureFileError
from sensor.files.capture_file import CaptureFile
from sensor.model import FrameBatch, LinkType

SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS
CORPUS = corpus()


class Frame(NamedTuple):
    """A frame as a capture file describes it."""

    data: bytes
    timestamp_ns: int
    wirelen: int
    linktype: int = LinkType.ETHERNET
    interface: int = 0


def some_frames(count: int = 20, linktype: int = LinkType.ETHERNET) -> list[Frame]:
    """Return frames of many lengths, some cut to a snaplen, with nanoseconds in their times."""
    chosen = [frame for _, frame in CORPUS[:: len(CORPUS) // count]][:count]
    return [
        Frame(data, START_NS + number * 1_234_567_891, len(data) + number % 3 * 100, linktype)
        for number, data in enumerate(chosen)
    ]


def pcap(
    frames: Iterable[Frame], order: str = "<", magic: int = 0xA1B23C4D, linktype: int = LinkType.ETHERNET
) -> bytes:
    """Return a classic pcap file; the magic number sets the unit of fractional seconds."""
    unit_ns = 1 if magic == 0xA1B23C4D else 1000
    file = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, linktype)
    for frame in frames:
        seconds, rest_ns = divmod(frame.timestamp_ns, SECOND_NS)
        file += struct.pack(order + "IIII", seconds, rest_ns // unit_ns, len(frame.data), frame.wirelen)
        file += frame.data
    return file


def as_frames(batch: FrameBatch) -> list[Frame]:
    """Return the frames of a batch."""
    rows = zip(batch.start, batch.caplen, batch.timestamp_ns, batch.wirelen, batch.interface, strict=True)
    return [
        Frame(bytes(batch.buffer[start : start + caplen]), timestamp_ns, wirelen, batch.linktype, interface)
        for start, caplen, timestamp_ns, wirelen, interface in rows
    ]


def read_bytes(directory: Path, content: bytes, **options: int) -> tuple[list[Frame], str]:
    """Read a file with this content; return its frames, and the error that ended reading."""
    path = directory / "capture"
    path.write_bytes(content)
    return read(path, **options)


def read(path: Path, **options: int) -> tuple[list[Frame], str]:
    """Read a file; return its frames, and the error that ended reading, or an empty text."""
    frames: list[Frame] = []
    try:
        with CaptureFile(path) as file:
            for batch in file.batches(**options):
                frames += as_frames(batch)
            assert file.position_bytes == file.size_bytes
    except CaptureFileError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return frames, str(error)
    return frames, ""


def section(order: str = "<") -> blocks.SectionHeader:
    """Return a section header block."""
    return blocks.SectionHeader(endianness=order)


def interface(
    of: blocks.SectionHeader, linktype: int = LinkType.ETHERNET, snaplen: int = 0, **options: Any
) -> Any:
    """Add an interface to a section; options have the names of the format."""
    return of.new_member(blocks.InterfaceDescription, link_type=linktype, snaplen=snaplen, options=options)


def packet(
    of: blocks.SectionHeader, frame: Frame, ticks: int, kind: Any = blocks.EnhancedPacket, number: int = 0
) -> Any:
    """Return a packet block; ``number`` is the number of the interface in its section."""
    return of.new_member(
        kind,
        interface_id=number,
        timestamp_high=ticks >> 32,
        timestamp_low=ticks & 0xFFFF_FFFF,
        packet_len=frame.wirelen,
        packet_data=frame.data,
    )


def written(*sections: tuple[blocks.SectionHeader, Iterable[Any]]) -> bytes:
    """Return a pcapng file with these sections and their packet blocks."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library warns about its own options
        for header, members in sections:
            writer = pcapng.FileWriter(stream, header)
            for member in members:
                writer.write_block(member)
    return stream.getvalue()


def simple_pcapng(frames: Iterable[Frame], order: str = "<") -> bytes:
    """Return a pcapng file with frames of one interface, in nanoseconds."""
    header = section(order)
    interface(header, if_tsresol=b"\x09")
    return written((header, [packet(header, frame, frame.timestamp_ns) for frame in frames]))


def lengths_and_times(frames: Iterable[Frame]) -> list[tuple[int, int, int]]:
    """Return the values of frames that `shark` returns for a file."""
    return [(frame.timestamp_ns, len(frame.data), frame.wirelen) for frame in frames]


def shark(path: Path) -> list[tuple[int, int, int]]:
    """Return the nanoseconds, captured length and wire length that tshark reads for each frame."""
    fields = ("frame.time_epoch", "frame.cap_len", "frame.len")
    options = itertools.chain.from_iterable(("-e", field) for field in fields)
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *options]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [line.split("\t") for line in lines]
    return [
        (int(seconds) * SECOND_NS + int(fraction), int(caplen), int(wirelen))
        for (seconds, fraction), caplen, wirelen in ((row[0].split("."), row[1], row[2]) for row in rows)
    ]
