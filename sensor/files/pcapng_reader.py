"""Reads pcapng: blocks that describe sections, interfaces and packets. Runs in ``sensor read``.

Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html. The library python-pcapng parses
the blocks. Its timestamps are floats, which lose nanoseconds, so they are computed here from the fields. It
trusts the lengths in the file, so they are checked before it reads that many bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from pcapng import FileScanner
from pcapng.blocks import (
    EnhancedPacket,
    InterfaceDescription,
    ObsoletePacket,
    SectionHeader,
    SimplePacket,
)

from sensor.errors import CaptureFileError
from sensor.files.byte_source import FRAME_SIZE_MAX, ByteSource
from sensor.model import FrameBatch

MAGIC = b"\x0a\x0d\x0d\x0a"
VERSION_MAJOR = 1
BLOCK_BYTES_MAX = 1 << 24
BATCH_BYTES = 1 << 20


def read_pcapng(source: ByteSource, max_frames: int) -> Iterator[FrameBatch]:
    """Yield the frames of a pcapng file; a change of the link type starts a new batch.

    Raises:
        CaptureFileError: the file is damaged or cut short. The frames before that are yielded first.
    """
    frames: list[_Frame] = []
    size = 0
    try:
        for frame in _frames(source):
            full = len(frames) == max_frames or size >= BATCH_BYTES
            if frames and (full or frame.interface.linktype != frames[0].interface.linktype):
                yield _batch(frames)
                frames, size = [], 0
            frames.append(frame)
            size += len(frame.data)
    except CaptureFileError:
        if frames:
            yield _batch(frames)
        raise
    if frames:
        yield _batch(frames)


@dataclass(frozen=True, slots=True)
class _Interface:
    number: int
    """Number of the interface, counted through all sections of the file."""
    linktype: int
    ticks_per_second: int
    offset_ns: int

    @classmethod
    def from_block(cls, block: Any, number: int) -> _Interface:
        """Read an Interface Description Block. Ticks are microseconds unless an option says otherwise."""
        resolution = block.options.get("if_tsresol", b"\6")[0]
        base = 2 if resolution & 0x80 else 10
        offset_s = block.options.get("if_tsoffset", 0)
        return cls(number, block.link_type, base ** (resolution & 0x7F), offset_s * 1_000_000_000)

    def timestamp_ns(self, block: Any) -> int:
        """Return the time of a packet block in nanoseconds; 0 for a Simple Packet Block."""
        if isinstance(block, SimplePacket):
            return 0
        ticks = block.timestamp_high << 32 | block.timestamp_low
        return int(ticks * 1_000_000_000 // self.ticks_per_second + self.offset_ns)


@dataclass(frozen=True, slots=True)
class _Frame:
    data: bytes
    wirelen: int
    timestamp_ns: int
    interface: _Interface

    @classmethod
    def from_block(cls, block: Any, interface: _Interface) -> _Frame:
        data, timestamp_ns = block.packet_data, interface.timestamp_ns(block)
        if len(data) > FRAME_SIZE_MAX:
            raise ValueError(f"it claims a frame of {len(data)} bytes")
        if not -(1 << 63) <= timestamp_ns < 1 << 63:
            raise ValueError("its time is out of range")
        return cls(data, max(block.packet_len, len(data)), timestamp_ns, interface)


class _Section:
    """The interfaces of the current section, to which packet blocks refer by number."""

    def __init__(self) -> None:
        self._interfaces: list[_Interface] = []
        self._numbers = count()

    def frame_in(self, block: Any) -> _Frame | None:
        """Return the frame of a packet block; remember interfaces and return None for other blocks."""
        match block:
            case SectionHeader():
                if block.version_major != VERSION_MAJOR:
                    raise ValueError(
                        f"unsupported pcapng version {block.version_major}.{block.version_minor}"
                    )
                self._interfaces.clear()
            case InterfaceDescription():
                self._interfaces.append(_Interface.from_block(block, next(self._numbers)))
            case EnhancedPacket() | SimplePacket() | ObsoletePacket():
                return _Frame.from_block(block, self._interfaces[block.interface_id])
        return None


class _BlockStream:
    """The stream the library reads from. It refuses to read more bytes than a block can have."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        """Return the next bytes; fewer at the end of the file."""
        if not 0 <= size <= BLOCK_BYTES_MAX:
            raise ValueError(f"it claims {size} bytes")
        return self._source.read(size)

    def tell(self) -> int:
        """Return the number of bytes read; the library uses it to align blocks."""
        return self._source.position_bytes


def _frames(source: ByteSource) -> Iterator[_Frame]:
    section = _Section()
    blocks = iter(FileScanner(_BlockStream(source)))
    block_offset = 0
    try:
        while (block := _next(blocks)) is not None:
            frame = section.frame_in(block)
            if frame:
                yield frame
            block_offset = source.position_bytes
    except CaptureFileError:
        raise
    except Exception as error:  # on damage the library raises errors of any type
        if source.at_end:
            raise source.damage(f"ends inside the block at byte {block_offset}") from error
        raise source.damage(f"the block at byte {block_offset} is damaged ({error})") from error
    if source.position_bytes != block_offset:  # the library treats that as a normal end
        raise source.damage(f"ends inside the block at byte {block_offset}, or that block is damaged")


def _next(blocks: Iterator[Any]) -> Any:
    """Return the next block, or None, and silence the library's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return next(blocks, None)


def _batch(frames: list[_Frame]) -> FrameBatch:
    caplen = np.array([len(frame.data) for frame in frames], np.int64)
    return FrameBatch(
        buffer=memoryview(b"".join([frame.data for frame in frames])),
        start=np.cumsum(caplen) - caplen,
        caplen=caplen,
        wirelen=np.array([frame.wirelen for frame in frames], np.int64),
        timestamp_ns=np.array([frame.timestamp_ns for frame in frames], np.int64),
        interface=np.array([frame.interface.number for frame in frames], np.int64),
        linktype=frames[0].interface.linktype,
    )
