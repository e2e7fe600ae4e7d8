"""Reads pcapng: blocks that describe sections, interfaces and packets. Runs in ``sensor read``.

Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html. A loop in C walks the packet blocks
and skips blocks of unknown types. Section headers and interfaces are read here. Only what frames need is
read of them, so errors in comments, names and other options never cost a frame.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator

from sensor.errors import CaptureFileError
from sensor.files.byte_source import ByteSource
from sensor.files.pcapng_interface import interface_values
from sensor.model import FrameBatch
from sensor.native.blocks import BlockWalk, Stop

log = logging.getLogger(__name__)

MAGIC = b"\x0a\x0d\x0d\x0a"
VERSION_MAJOR = 1
BYTE_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
NATIVE_ORDER = "<" if struct.pack("=H", 1) == b"\1\0" else ">"
BLOCK_BYTES_MIN = 12
SECTION_BYTES_MIN = 28
BLOCK_BYTES_MAX = 1 << 24
"""The longest block that is read; blocks of unknown types are skipped at any length."""
INTERFACES_MAX = 1 << 16
"""The most interfaces in a section; a file with more is damaged, or made to use up memory."""


def read_pcapng(source: ByteSource, max_frames: int) -> Iterator[FrameBatch]:
    """Yield the frames of a pcapng file; a change of the link type starts a new batch.

    Raises:
        CaptureFileError: the file is damaged or cut short. All frames that can be read are yielded first:
            a packet block whose lengths agree costs only itself.
    """
    reader = _Reader(source, max_frames)
    try:
        yield from reader.batches()
        if reader.damaged:
            raise CaptureFileError(
                f"{source.path}: {reader.first_damage}; packets lost to damage: {reader.damaged}; "
                "all others were read; copy the file again to get the rest"
            )
    finally:
        if reader.walk.clamped:
            log.warning(
                "%s: times outside 1677 to 2262 do not fit 64 bits of nanoseconds; "
                "frames read with the nearest time instead: %d",
                source.path,
                reader.walk.clamped,
            )


class _Reader:
    """Reads one file in chunks, and remembers the byte order of the current section."""

    def __init__(self, source: ByteSource, max_frames: int) -> None:
        self.walk = BlockWalk(max_frames)
        self._source = source
        self._order = NATIVE_ORDER
        self._offset = 0
        """Position of the walk's buffer in the file."""
        self.damaged = 0
        """Packet blocks that were skipped."""
        self.first_damage = ""

    def batches(self) -> Iterator[FrameBatch]:
        """Yield the frames of the file."""
        rest = memoryview(b"")
        while not self._source.at_end:
            self.walk.enter(self._source.read_after(rest))
            yield from self._batches_of_buffer()
            rest = self.walk.buffer[self.walk.position :]
            self._offset += self.walk.position
            rest = self._skip_long_block(rest)
        if rest:
            raise self._source.damage(f"ends inside the block at byte {self._offset}")

    def _batches_of_buffer(self) -> Iterator[FrameBatch]:
        """Yield the frames of the whole blocks in the walk's buffer."""
        stop = Stop.FULL
        while stop != Stop.MORE:
            damage = None
            try:
                stop = self._walk_on()
            except CaptureFileError as error:
                damage = error
            if self.walk.count:
                yield self._batch()
            if damage:
                raise damage

    def _walk_on(self) -> Stop:
        """Walk until a batch is complete or the next block is not whole.

        Raises:
            CaptureFileError: the next block is damaged.
        """
        while True:
            match self.walk.run():
                case Stop.MORE | Stop.FULL | Stop.LINKTYPE as stop:
                    return stop
                case Stop.SECTION:
                    if not self._read_section():
                        return Stop.MORE
                case Stop.INTERFACE:
                    self._read_interface()
                case Stop.BAD_FRAME | Stop.BAD_INTERFACE as stop:
                    self._skip_packet(self._complaint(stop))
                case stop:
                    raise self._damage(self._complaint(stop))

    def _skip_packet(self, complaint: str) -> None:
        """Skip a packet block whose lengths agree, but whose content is damaged."""
        (length,) = struct.unpack_from(f"{self._order}I", self.walk.buffer, self.walk.position + 4)
        self.damaged += 1
        self.first_damage = self.first_damage or self._damaged_block(complaint)
        self.walk.skip(_aligned(length))

    def _batch(self) -> FrameBatch:
        linktype = self.walk.linktype
        start, caplen, wirelen, timestamp_ns, interface = self.walk.pop_frames()
        return FrameBatch(self.walk.buffer, start, caplen, wirelen, timestamp_ns, interface, linktype)

    def _read_section(self) -> bool:
        """Enter the section whose header is next; return False if the header is not whole."""
        block = self.walk.buffer[self.walk.position :]
        if len(block) < BLOCK_BYTES_MIN:
            return False
        order = BYTE_ORDERS.get(bytes(block[8:12]))
        if order is None:
            raise self._damage(f"{bytes(block[8:12]).hex()} is not a byte order")
        (length,) = struct.unpack_from(f"{order}I", block, 4)
        if not SECTION_BYTES_MIN <= length <= BLOCK_BYTES_MAX:
            raise self._damage(_impossible(length))
        size = _aligned(length)
        if len(block) < size:
            return False
        if _aligned(*struct.unpack_from(f"{order}I", block, size - 4)) != size:
            raise self._damage(self._complaint(Stop.BAD_END))
        major, minor = struct.unpack_from(f"{order}HH", block, 12)
        if major != VERSION_MAJOR:
            raise self._damage(f"unsupported pcapng version {major}.{minor}")
        self._order = order
        self.walk.start_section(swapped=order != NATIVE_ORDER)
        self.walk.skip(size)
        return True

    def _read_interface(self) -> None:
        if self.walk.interface_count == INTERFACES_MAX:
            raise self._damage(f"it is interface {INTERFACES_MAX + 1} of its section, which is too many")
        start, size = self.walk.position, self.walk.claim
        self.walk.add_interface(interface_values(self.walk.buffer[start + 8 : start + size - 4], self._order))
        self.walk.skip(size)

    def _skip_long_block(self, rest: memoryview) -> memoryview:
        """Skip a block of an unknown type that is too long to be held; return what is left of ``rest``."""
        if len(rest) < BLOCK_BYTES_MIN or bytes(rest[:4]) == MAGIC:
            return rest
        (length,) = struct.unpack_from(f"{self._order}I", rest, 4)
        if length <= BLOCK_BYTES_MAX:
            return rest
        size = _aligned(length)
        end = self._source.read(4) if self._source.skip(size - len(rest) - 4) else b""
        if len(end) < 4:
            return rest
        if _aligned(*struct.unpack(f"{self._order}I", end)) != size:
            raise self._source.damage(
                f"the block at byte {self._offset} is damaged ({self._complaint(Stop.BAD_END)})"
            )
        self._offset += size
        return memoryview(b"")

    def _damage(self, complaint: str) -> CaptureFileError:
        return self._source.damage(self._damaged_block(complaint))

    def _damaged_block(self, complaint: str) -> str:
        return f"the block at byte {self._offset + self.walk.position} is damaged ({complaint})"

    def _complaint(self, stop: Stop) -> str:
        match stop:
            case Stop.BAD_LENGTH:
                return _impossible(self.walk.claim)
            case Stop.BAD_END:
                return "its length at the end differs from the one at its start"
            case Stop.BAD_INTERFACE:
                return f"it names interface {self.walk.claim}, the section has {self.walk.interface_count}"
            case _:
                return f"it claims a frame of {self.walk.claim} bytes"


def _impossible(length: int) -> str:
    return f"a length of {length} bytes is impossible"


def _aligned(length: int) -> int:
    return length + 3 & ~3
