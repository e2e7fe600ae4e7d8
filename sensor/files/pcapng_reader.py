"""pcapng: sections, interfaces and packets, a block each; runs in ``sensor read``.

Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html. python-pcapng takes
the blocks apart. Its own timestamps are floats, which lose nanoseconds, so ours are made from
the fields; and it trusts the lengths it reads, so they are checked before it acts on them.
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
BLOCK_SIZE_MAX = 1 << 24
BATCH_BYTES = 1 << 20


def read_blocks(source: ByteSource, max_frames: int) -> Iterator[FrameBatch]:
    """Read the frames of a pcapng file; where the link type changes, a new batch starts.

    Raises:
        CaptureFileError: The file is damaged or cut short; whole frames before that come first.
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
    """Counted through all sections of the file."""
    linktype: int
    ticks_per_second: int
    offset_ns: int

    @classmethod
    def described_by(cls, block: Any, number: int) -> _Interface:
        """Read an Interface Description Block; ticks are microseconds unless an option says otherwise."""
        resolution = block.options.get("if_tsresol", b"\6")[0]
        base = 2 if resolution & 0x80 else 10
        offset_s = block.options.get("if_tsoffset", 0)
        return cls(number, block.link_type, base ** (resolution & 0x7F), offset_s * 1_000_000_000)

    def timestamp_ns(self, block: Any) -> int:
        """Make nanoseconds of a packet block's ticks; a Simple Packet Block has none, and gets 0."""
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
    def of(cls, block: Any, interface: _Interface) -> _Frame:
        data, timestamp_ns = block.packet_data, interface.timestamp_ns(block)
        if len(data) > FRAME_SIZE_MAX:
            raise ValueError(f"it claims a frame of {len(data)} bytes")
        if not -(1 << 63) <= timestamp_ns < 1 << 63:
            raise ValueError("its time is out of range")
        return cls(data, max(block.packet_len, len(data)), timestamp_ns, interface)


class _Sections:
    """The interfaces of the section that is being read: blocks speak of them by number."""

    def __init__(self) -> None:
        self._interfaces: list[_Interface] = []
        self._numbers = count()

    def frame_in(self, block: Any) -> _Frame | None:
        """Take the frame out of a packet block, and remember what other blocks say of the next ones."""
        match block:
            case SectionHeader():
                if block.version_major != VERSION_MAJOR:
                    raise ValueError(f"it is of pcapng version {block.version_major}.{block.version_minor}")
                self._interfaces.clear()
            case InterfaceDescription():
                self._interfaces.append(_Interface.described_by(block, next(self._numbers)))
            case EnhancedPacket() | SimplePacket() | ObsoletePacket():
                return _Frame.of(block, self._interfaces[block.interface_id])
        return None


class _Stream:
    """What the library reads blocks from: never more at once than a block may have."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        """Read that many bytes, or fewer where the file ends."""
        if not 0 <= size <= BLOCK_SIZE_MAX:
            raise ValueError(f"it claims {size} bytes")
        return self._source.read(size)

    def tell(self) -> int:
        """Say how many bytes have been read: blocks are aligned."""
        return self._source.position_bytes


def _frames(source: ByteSource) -> Iterator[_Frame]:
    sections = _Sections()
    blocks = iter(FileScanner(_Stream(source)))
    block_offset = 0
    try:
        while (block := _next(blocks)) is not None:
            frame = sections.frame_in(block)
            if frame:
                yield frame
            block_offset = source.position_bytes
    except CaptureFileError:
        raise
    except Exception as error:  # the library answers damage with whatever its parsing ran into
        if source.ended:
            raise source.fault(f"ends inside the block at byte {block_offset}") from error
        raise source.fault(f"the block at byte {block_offset} is damaged ({error})") from error
    if source.position_bytes != block_offset:  # the library takes that for a proper end
        raise source.fault(f"ends inside the block at byte {block_offset}, or that block is damaged")


def _next(blocks: Iterator[Any]) -> Any:
    """Take the next block, or None, without the library's warnings about options and about itself."""
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
