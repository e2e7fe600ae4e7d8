"""Where a group of frames stands while a batch is decoded; runs wherever `decode` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from sensor.model import FrameBatch, PacketBatch, PacketStatus

Integers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Datagrams: TypeAlias = tuple[Integers, dict[str, NDArray[Any]]]
"""Frames, and the fields of their packets."""

_DATAGRAM_FIELDS = (
    "status",
    "ip_version",
    "protocol",
    "tos",
    "source_offset",
    "sport",
    "dport",
    "payload_start",
    "payload_end",
)


@dataclass(frozen=True, slots=True)
class Decoding:
    """What all cursors of one batch share: its bytes, and what is found out about its packets."""

    octets: NDArray[np.uint8]
    packets: PacketBatch
    first_fragment: Mask
    """Packets that are the first of several fragments: the transport's length speaks of all of them."""
    left: list[FrameGroup]
    """Groups that stand at the start of an inner packet, which is not decoded yet."""
    inner_ethertype: Integers
    """What that inner packet is."""

    datagrams: list[Datagrams]
    """What datagrams are to be taken for where their inside turns out to be none."""

    def take_left(self) -> FrameGroup:
        """Go on with all frames of which an inner packet is left: there has to be one."""
        cursor = reduce(FrameGroup.join, self.left)
        self.left.clear()
        return cursor

    def restore_datagrams(self) -> None:
        """Take datagrams for the payload that they are where no packet could be decoded inside.

        A header that looks like a tunnel's costs an attacker nothing: it must not hide the payload.
        """
        for frames, fields in reversed(self.datagrams):  # the innermost first
            inside = self.packets.status[frames]
            failed = (inside == PacketStatus.UNKNOWN) | (inside == PacketStatus.MALFORMED)
            for name, values in fields.items():
                getattr(self.packets, name)[frames[failed]] = values[failed]


@dataclass(slots=True)
class FrameGroup:
    """A group of frames of one batch, each standing at the start of a header.

    The arrays have one entry a frame of the group. Bytes at and past ``end`` are not the
    frame's: `need` comes before `u8` and `u16`.
    """

    decoding: Decoding
    frames: Integers | slice
    """The frames' places in the batch. A slice means all of them, and spares indexing by number."""
    position: Integers
    """Where the header starts, as an offset in the batch's buffer."""
    end: Integers
    """Where the enclosing layer ends, as far as it was kept."""
    wire_end: Integers
    """Where the enclosing layer ended on the wire: what the lengths in headers are held against."""

    @classmethod
    def at_start(cls, batch: FrameBatch, packets: PacketBatch) -> FrameGroup:
        """Stand at the first byte of every frame in the batch."""
        octets = np.ndarray(batch.buffer.nbytes, np.uint8, batch.buffer)
        decoding = Decoding(
            octets,
            packets,
            first_fragment=np.zeros(len(batch), np.bool_),
            left=[],
            datagrams=[],
            inner_ethertype=np.zeros(len(batch), np.int64),
        )
        wire_end = batch.start + batch.wirelen
        end = np.minimum(batch.start + batch.caplen, wire_end)
        return cls(decoding, slice(None), batch.start, end, wire_end)

    def __len__(self) -> int:
        return len(self.position)

    @property
    def protocol(self) -> NDArray[np.uint8]:
        """The packets' protocol as it was last `set`."""
        return self.decoding.packets.protocol[self.frames]

    def u8(self, offset: int) -> Integers:
        """Read the byte at ``position + offset``; 64 bits wide, so that sums cannot wrap."""
        return self.decoding.octets[self.position + offset].astype(np.int64)

    def u16(self, offset: int) -> Integers:
        """Read the 16-bit number in network order at ``position + offset``."""
        position = self.position + offset
        number = self.decoding.octets[position].astype(np.int64)
        number <<= 8  # in place: this is the hottest function of all
        position += 1
        number |= self.decoding.octets[position]
        return number

    def keep(self, mask: Mask) -> FrameGroup:
        """Go on with the frames for which the mask holds; the others stay what they are."""
        if np.count_nonzero(mask) == len(self):
            return self
        frames = np.flatnonzero(mask) if isinstance(self.frames, slice) else self.frames[mask]
        return FrameGroup(self.decoding, frames, self.position[mask], self.end[mask], self.wire_end[mask])

    def join(self, other: FrameGroup) -> FrameGroup:
        """Go on with the frames of both groups."""
        if not len(self) or not len(other):
            return self if len(self) else other
        # Neither has all the frames, so neither has a slice.
        frames = np.append(cast("Integers", self.frames), cast("Integers", other.frames))
        return FrameGroup(
            self.decoding,
            frames,
            np.append(self.position, other.position),
            np.append(self.end, other.end),
            np.append(self.wire_end, other.wire_end),
        )

    def need(self, size: Integers | int) -> FrameGroup:
        """Go on with the frames in which that many bytes follow; in the others a header is cut short."""
        return self.keep(self.position + size <= self.end)

    def skip(self, size: Integers | int) -> FrameGroup:
        """Step over that many bytes, which may lead past the end: `need` first, or compare afterwards."""
        return FrameGroup(self.decoding, self.frames, self.position + size, self.end, self.wire_end)

    def narrow(self, wire_end: Integers) -> FrameGroup:
        """Enter a layer that ends there."""
        return FrameGroup(self.decoding, self.frames, self.position, np.minimum(self.end, wire_end), wire_end)

    def leave(self, ethertype: Integers | int) -> None:
        """Leave inner packets of that ethertype, which start here; UNKNOWN to those who go no deeper."""
        if len(self):
            self.finish(PacketStatus.UNKNOWN)
            self.set(payload_start=0, payload_end=0)
            self.decoding.inner_ethertype[self.frames] = ethertype
            self.decoding.left.append(self)

    def leave_datagram(self, ethertype: Integers | int) -> None:
        """Do the same with what may be a tunnel's datagrams, and remember these as they are."""
        frames = np.arange(len(self)) if isinstance(self.frames, slice) else self.frames
        fields = {name: getattr(self.decoding.packets, name)[frames] for name in _DATAGRAM_FIELDS}
        self.decoding.datagrams.append((frames, fields))
        self.leave(ethertype)

    def set(self, **fields: Integers | int) -> None:
        """Fill in fields of the packets."""
        for name, values in fields.items():
            getattr(self.decoding.packets, name)[self.frames] = values

    def finish(self, status: PacketStatus) -> None:
        """Say what the packets came to."""
        self.decoding.packets.status[self.frames] = status

    def finish_at_payload(self, status: PacketStatus) -> None:
        """Take what is left for payload: the packets came to ``status``, or to NO_PAYLOAD if nothing is."""
        self.finish(PacketStatus.NO_PAYLOAD)
        payload = self.keep(self.position < self.end)
        payload.finish(status)
        payload.set(payload_start=payload.position, payload_end=payload.end)


Layer: TypeAlias = Callable[[FrameGroup], None]


def finish_as(status: PacketStatus) -> Layer:
    """Make the layer in which every packet comes to the same end."""

    def layer(cursor: FrameGroup) -> None:
        cursor.finish(status)

    return layer


unknown = finish_as(PacketStatus.UNKNOWN)


def table_of(bits: int, numbers: Iterable[int]) -> Mask:
    """Make a table that tells of every number of so many bits whether it is one of those."""
    table = np.zeros(1 << bits, np.bool_)
    table[list(numbers)] = True
    return table


class Switch:
    """Sends frames on to the layers that a type field names; what no layer claims is UNKNOWN.

    Layers are tried in the order given: the frequent ones first.
    """

    def __init__(self, bits: int, layers: Mapping[Layer, Iterable[int]]) -> None:
        self._layers = [*layers, unknown]
        self._choice = np.full(1 << bits, len(layers), np.uint8)
        for choice, types in enumerate(layers.values()):
            self._choice[list(types)] = choice

    def enter(self, cursor: FrameGroup, types: Integers | NDArray[np.uint8]) -> None:
        """Hand each frame to its layer, all frames of a layer together."""
        choices = self._choice.take(types)
        left = len(cursor)
        for choice, layer in enumerate(self._layers):
            if not left:
                break
            chosen = choices == choice
            count = np.count_nonzero(chosen)
            if count:
                layer(cursor.keep(chosen))
                left -= int(count)
