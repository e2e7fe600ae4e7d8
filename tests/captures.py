"""Capture files for tests: written in every variant of the formats, and read by the sensor and by tshark."""

from __future__ import annotations

import itertools
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from frames import corpus

from sensor.errors import CaptureFileError
from sensor.files.capture_file import CaptureFile
from sensor.model import FrameBatch, LinkType

SECOND_NS = 1_000_000_000
MODIFIED_MAGIC = 0xA1B2CD34
"""Alexey Kuznetzov's variant of pcap, with 8 more bytes in each record header."""
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
    frames: Iterable[Frame],
    order: str = "<",
    magic: int = 0xA1B23C4D,
    linktype: int = LinkType.ETHERNET,
    *,
    minor: int = 4,
    is_swapped: bool = False,
) -> bytes:
    """Return a classic pcap file of version 2.``minor``; the magic number sets the unit of fractions.

    ``is_swapped`` exchanges the two lengths of each record, as versions before 2.3 do.
    """
    unit_ns = 1 if magic == 0xA1B23C4D else 1000
    extension = bytes(8) if magic == MODIFIED_MAGIC else b""
    file = struct.pack(order + "IHHiIII", magic, 2, minor, 0, 0, 262144, linktype)
    for frame in frames:
        seconds, rest_ns = divmod(frame.timestamp_ns, SECOND_NS)
        lengths = (len(frame.data), frame.wirelen)[:: -1 if is_swapped else 1]
        file += struct.pack(order + "IIII", seconds, rest_ns // unit_ns, *lengths) + extension
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


SECTION_HEADER, INTERFACE, OBSOLETE_PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6
"""Types of pcapng blocks."""


def block(
    kind: int, body: bytes, order: str = "<", length: int | None = None, end: int | None = None
) -> bytes:
    """Return a pcapng block; ``length`` and ``end`` replace the lengths at its start and end."""
    body += bytes(-len(body) % 4)
    if length is None:
        length = 12 + len(body)
    end = length if end is None else end
    return struct.pack(f"{order}II", kind, length) + body + struct.pack(f"{order}I", end)


def option(code: int, value: bytes, order: str = "<", length: int | None = None) -> bytes:
    """Return an option of a pcapng block; ``length`` replaces its length."""
    length = len(value) if length is None else length
    return struct.pack(f"{order}HH", code, length) + value + bytes(-len(value) % 4)


def resolution(value: int, order: str = "<") -> bytes:
    """Return the option if_tsresol."""
    return option(9, bytes([value]), order)


def offset(seconds: int, order: str = "<") -> bytes:
    """Return the option if_tsoffset."""
    return option(14, struct.pack(f"{order}q", seconds), order)


def section(order: str = "<", major: int = 1, options: bytes = b"") -> bytes:
    """Return a section header block."""
    return block(SECTION_HEADER, struct.pack(f"{order}IHHq", 0x1A2B3C4D, major, 0, -1) + options, order)


def interface(
    linktype: int = LinkType.ETHERNET, snaplen: int = 0, options: bytes = b"", order: str = "<"
) -> bytes:
    """Return an interface description block."""
    return block(INTERFACE, struct.pack(f"{order}HHI", linktype, 0, snaplen) + options, order)


def packet(
    frame: Frame,
    ticks: int,
    number: int = 0,
    order: str = "<",
    kind: int = ENHANCED_PACKET,
    options: bytes = b"",
    **lengths: int,
) -> bytes:
    """Return an enhanced or obsolete packet block; ``number`` is that of the interface in its section."""
    which = struct.pack(f"{order}I" if kind == ENHANCED_PACKET else f"{order}Hxx", number)
    fields = (ticks >> 32, ticks & 0xFFFF_FFFF, len(frame.data), frame.wirelen)
    data = frame.data + bytes(-len(frame.data) % 4)
    return block(kind, which + struct.pack(f"{order}IIII", *fields) + data + options, order, **lengths)


def simple_packet(frame: Frame, order: str = "<") -> bytes:
    """Return a simple packet block."""
    return block(SIMPLE_PACKET, struct.pack(f"{order}I", frame.wirelen) + frame.data, order)


def simple_pcapng(frames: Iterable[Frame], order: str = "<") -> bytes:
    """Return a pcapng file with frames of one interface, in nanoseconds."""
    header = section(order) + interface(options=resolution(9, order), order=order)
    return header + b"".join(packet(frame, frame.timestamp_ns, order=order) for frame in frames)


def lengths_and_times(frames: Iterable[Frame]) -> list[tuple[int, int, int]]:
    """Return the values of frames that `shark` returns for a file."""
    return [(frame.timestamp_ns, len(frame.data), frame.wirelen) for frame in frames]


def shark(path: Path) -> list[tuple[int, int, int]]:
    """Return the nanoseconds, captured length and wire length that tshark reads for each frame."""
    return shark_until_damage(path)[0]


def shark_until_damage(path: Path) -> tuple[list[tuple[int, int, int]], str]:
    """Return what `shark` returns, and tshark's complaint about the file, or an empty text."""
    fields = ("frame.time_epoch", "frame.cap_len", "frame.len")
    options = itertools.chain.from_iterable(("-e", field) for field in fields)
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    complaint = done.stderr if done.returncode else ""
    return [(_nanoseconds(time), int(caplen), int(wirelen)) for time, caplen, wirelen in rows], complaint


def _nanoseconds(time: str) -> int:
    """Return the nanoseconds of tshark's ``time_epoch``, which is empty in a simple packet block."""
    seconds, fraction = time.split(".") if time else ("0", "0")
    return int(seconds) * SECOND_NS + int(fraction)
