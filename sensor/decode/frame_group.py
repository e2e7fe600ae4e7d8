"""The position of a group of frames while their batch is decoded. Runs where `decode` runs."""

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
"""Indices of frames, and the fields of their packets."""

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
    """State shared by all groups of one batch: the bytes, and the packets decoded so far."""

    octets: NDArray[np.uint8]
    packets: PacketBatch
    first_fragment: Mask
    """Packets that are the first of several fragments; their transport header gives the length of all."""
    pending: list[FrameGroup]
    """Groups at the start of an inner packet that is not decoded yet."""
    inner_ethertype: Integers
    """Type of that inner packet."""

    datagrams: list[Datagrams]
    """UDP packets that may carry a tunnel, as they are without one."""

    def join_pending(self) -> FrameGroup:
        """Return all frames with a pending inner packet as one group; there must be at least one."""
        group = reduce(FrameGroup.join, self.pending)
        self.pending.clear()
        return group

    def restore_datagrams(self) -> None:
        """Restore the datagrams in which no inner packet could be decoded.

        An attacker can forge a tunnel header at no cost; it must not hide the payload.
        """
        for frames, fields in reversed(self.datagrams):  # the innermost first
            inside = self.packets.status[frames]
            failed = (inside == PacketStatus.UNKNOWN) | (inside == PacketStatus.MALFORMED)
            for name, values in fields.items():
                getattr(self.packets, name)[frames[failed]] = values[failed]


@dataclass(slots=True)
class FrameGroup:
    """A group of frames of one batch, each positioned at the start of a header.

    The arrays have one entry per frame of the group. Bytes from ``end`` on do not belong to the
    frame: call `require` before `u8` and `u16`.
    """

    decoding: Decoding
    frames: Integers | slice
    """Indices of the frames in the batch. A slice means all of them, and saves indexing by array."""
    position: Integers
    """Offset of the header in the batch's buffer."""
    end: Integers
    """End of the enclosing layer in the captured bytes."""
    wire_end: Integers
    """End of the enclosing layer on the wire; the lengths in headers are checked against it."""

    @classmethod
    def at_start(cls, batch: FrameBatch, packets: PacketBatch) -> FrameGroup:
        """Return a group of all frames of a batch, positioned at their first byte."""
        octets = np.ndarray(batch.buffer.nbytes, np.uint8, batch.buffer)
        decoding = Decoding(
            octets,
            packets,
            first_fragment=np.zeros(len(batch), np.bool_),
            pending=[],
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
        """Protocol of each packet, as last `set`."""
        return self.decoding.packets.protocol[self.frames]

    def u8(self, offset: int) -> Integers:
        """Return the byte at ``position + offset``, as 64-bit integers so that sums cannot wrap."""
        return self.decoding.octets[self.position + offset].astype(np.int64)

    def u16(self, offset: int) -> Integers:
        """Return the 16-bit number in network byte order at ``position + offset``."""
        position = self.position + offset
        number = self.decoding.octets[position].astype(np.int64)
        number <<= 8  # in place: this is the hottest function of decoding
        position += 1
        number |= self.decoding.octets[position]
        return number

    def keep(self, mask: Mask) -> FrameGroup:
        """Return the frames for which the mask is True; the others keep their status."""
        if np.count_nonzero(mask) == len(self):
            return self
        frames = np.flatnonzero(mask) if isinstance(self.frames, slice) else self.frames[mask]
        return FrameGroup(self.decoding, frames, self.position[mask], self.end[mask], self.wire_end[mask])

    def join(self, other: FrameGroup) -> FrameGroup:
        """Return the frames of both groups as one group."""
        if not len(self) or not len(other):
            return self if len(self) else other
        # Neither group holds all frames, so neither holds a slice.
        frames = np.append(cast("Integers", self.frames), cast("Integers", other.frames))
        return FrameGroup(
            self.decoding,
            frames,
            np.append(self.position, other.position),
            np.append(self.end, other.end),
            np.append(self.wire_end, other.wire_end),
        )

    def require(self, size: Integers | int) -> FrameGroup:
        """Return the frames with at least ``size`` more bytes; in the others the header is cut off."""
        return self.keep(self.position + size <= self.end)

    def skip(self, size: Integers | int) -> FrameGroup:
        """Return the group ``size`` bytes further on, perhaps past the end: check before or afterwards."""
        return FrameGroup(self.decoding, self.frames, self.position + size, self.end, self.wire_end)

    def narrow(self, wire_end: Integers) -> FrameGroup:
        """Return the group inside a layer that ends at ``wire_end``."""
        return FrameGroup(self.decoding, self.frames, self.position, np.minimum(self.end, wire_end), wire_end)

    def defer(self, ethertype: Integers | int) -> None:
        """Defer inner packets of this ethertype, which start here; UNKNOWN unless they are decoded later."""
        if len(self):
            self.finish(PacketStatus.UNKNOWN)
            self.set(payload_start=0, payload_end=0)
            self.decoding.inner_ethertype[self.frames] = ethertype
            self.decoding.pending.append(self)

    def defer_datagram(self, ethertype: Integers | int) -> None:
        """Defer packets inside datagrams that may be a tunnel's, and save the datagrams as they are."""
        frames = np.arange(len(self)) if isinstance(self.frames, slice) else self.frames
        fields = {name: getattr(self.decoding.packets, name)[frames] for name in _DATAGRAM_FIELDS}
        self.decoding.datagrams.append((frames, fields))
        self.defer(ethertype)

    def set(self, **fields: Integers | int) -> None:
        """Set fields of the packets."""
        for name, values in fields.items():
            getattr(self.decoding.packets, name)[self.frames] = values

    def finish(self, status: PacketStatus) -> None:
        """Set the final status of the packets."""
        self.decoding.packets.status[self.frames] = status

    def finish_at_payload(self, status: PacketStatus) -> None:
        """Set the rest as payload and ``status`` as status; NO_PAYLOAD for packets with nothing left."""
        self.finish(PacketStatus.NO_PAYLOAD)
        payload = self.keep(self.position < self.end)
        payload.finish(status)
        payload.set(payload_start=payload.position, payload_end=payload.end)


Layer: TypeAlias = Callable[[FrameGroup], None]


def finish_as(status: PacketStatus) -> Layer:
    """Return a layer that gives every packet this status."""

    def layer(group: FrameGroup) -> None:
        group.finish(status)

    return layer


unknown = finish_as(PacketStatus.UNKNOWN)


def table_of(bits: int, numbers: Iterable[int]) -> Mask:
    """Return a table of ``1 << bits`` entries that is True at the given numbers."""
    table = np.zeros(1 << bits, np.bool_)
    table[list(numbers)] = True
    return table


class Switch:
    """Passes frames to the layer that a type field names; types without a layer are UNKNOWN.

    Layers run in the order given: list the frequent ones first.
    """

    def __init__(self, bits: int, layers: Mapping[Layer, Iterable[int]]) -> None:
        self._layers = [*layers, unknown]
        self._choice = np.full(1 << bits, len(layers), np.uint8)
        for choice, types in enumerate(layers.values()):
            self._choice[list(types)] = choice

    def enter(self, group: FrameGroup, types: Integers | NDArray[np.uint8]) -> None:
        """Pass each frame to its layer, all frames of a layer at once."""
        choices = self._choice.take(types)
        left = len(group)
        for choice, layer in enumerate(self._layers):
            if not left:
                break
            chosen = choices == choice
            count = np.count_nonzero(chosen)
            if count:
                layer(group.keep(chosen))
                left -= int(count)
