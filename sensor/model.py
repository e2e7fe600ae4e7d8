"""The types that every package shares: frames, packets, rules, matches, evidence. Runs in every process.

A batch is a structure of arrays, so that numpy can work on it as a whole. A single packet becomes an
object only after it matched.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

RuleClass = Literal["service", "device", "os", "midware", "threat"]
Context = Literal["threat", "any", "off"]
"""Which rules keep the conversations around their matches, if the rule itself does not say it."""
RULE_CLASSES: tuple[RuleClass, ...] = ("service", "device", "os", "midware", "threat")


class LinkType(IntEnum):
    """The link types that `sensor.decode` decodes (https://www.tcpdump.org/linktypes.html)."""

    NULL = 0
    ETHERNET = 1
    RAW_BSD = 12
    """Raw IP, in files written with the number of most BSDs instead of RAW."""
    RAW_OPENBSD = 14
    RAW = 101
    LOOP = 108
    LINUX_SLL = 113
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276


class PacketStatus(IntEnum):
    """The outcome of parsing a frame; mirrors ``enum packet_status`` in ``bpf/abi.h``."""

    PAYLOAD = 0
    NO_PAYLOAD = 1
    NOT_IP = 2
    NO_TRANSPORT = 3
    FRAGMENT = 4
    TUNNEL = 5
    """Set by the kernel only: `decode` follows the tunnel and describes the inner packet."""
    UNKNOWN = 6
    MALFORMED = 7


class Role(IntEnum):
    """The reason why a frame is kept; those with the role before or after are the context of a match."""

    HIT = 0
    """The frame itself matched, or all frames of flows with matches are kept."""
    BEFORE = 1
    """It is of the flow of a match, and earlier."""
    AFTER = 2
    """It is of the flow of a match, and later."""


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Frames of one link type in one buffer; every array has one entry per frame.

    ``buffer`` may be the mapped ring itself. It is valid until the batch is released, so a frame that is
    kept longer must be copied.
    """

    buffer: memoryview
    """Unsigned bytes, one dimension, C-contiguous."""
    start: NDArray[np.int64]
    """Offset of the frame's first byte in ``buffer``."""
    caplen: NDArray[np.int64]
    """Bytes of the frame that were captured."""
    wirelen: NDArray[np.int64]
    """Bytes of the frame on the wire."""
    timestamp_ns: NDArray[np.int64]
    """Nanoseconds since the epoch, UTC."""
    interface: NDArray[np.int64]
    """The interface index of a live frame; for a file, the number of the interface in it."""
    linktype: int = LinkType.ETHERNET
    flow_packets: NDArray[np.int64] | None = None
    """The frame's position among the packets with payload of its flow, from 1, as the kernel counted.

    0 if the kernel did not count the frame; None if it counted none of the batch.
    """
    flow_born_jiffies: NDArray[np.int64] | None = None
    """Start of that flow in jiffies, which distinguishes it from an earlier flow of the same endpoints."""
    is_followed: NDArray[np.bool_] | None = None
    """True for a frame that the kernel submitted because its flow is followed; None if there is none."""
    ktime_ns: NDArray[np.uint64] | None = None
    """The kernel's monotonic time of each frame, which no other of its CPU has; None in files."""
    cpu: int = 0
    """The CPU that received the frames."""
    ring_origin: int | None = None
    """Position in the ring that offset 0 of the buffer stands for; None if the frames come from no ring."""

    def __len__(self) -> int:
        return len(self.start)

    def positions(self, index: NDArray[np.intp]) -> NDArray[np.uint64] | None:
        """Return the position in the ring of each frame in ``index``, if they come from one."""
        return None if self.ring_origin is None else (self.start[index] + self.ring_origin).astype(np.uint64)


@dataclass(frozen=True, slots=True)
class PacketBatch:
    """The decoded view of a `FrameBatch`, with one entry per frame.

    If a frame carries a tunnel, everything except the VLAN tags describes the innermost packet.
    Offsets are positions in the buffer of the frame batch. An offset is 0 if ``status`` says that the part
    was not found.
    """

    status: NDArray[np.uint8]
    """A `PacketStatus`."""
    ip_version: NDArray[np.uint8]
    """4, 6, or 0 without an IP header."""
    protocol: NDArray[np.uint8]
    """IANA protocol number of the transport, after any IPv6 extension headers."""
    tos: NDArray[np.uint8]
    """IPv4 type of service or IPv6 traffic class."""
    vlan_count: NDArray[np.uint8]
    """Number of tags in front of the outermost network header, 0 to 2."""
    vlan_tci: NDArray[np.uint16]
    """Shape (n, 2): tag control information, outer tag first."""
    source_offset: NDArray[np.int64]
    """Start of the source address, 4 or 16 bytes by ``ip_version``; the destination follows it directly."""
    sport: NDArray[np.uint16]
    dport: NDArray[np.uint16]
    """Ports; 0 if the protocol has none."""
    payload_start: NDArray[np.int64]
    payload_end: NDArray[np.int64]
    """Half-open range of the transport payload."""
    tcp_flags: NDArray[np.uint8]
    """Byte 13 of the TCP header (RFC 9293, section 3.1); 0 without one."""

    def __len__(self) -> int:
        return len(self.status)

    def addresses(self, buffer: memoryview, index: NDArray[np.intp]) -> tuple[list[bytes], list[bytes]]:
        """Return the packed source and destination addresses of the chosen packets.

        Args:
            buffer: The buffer of the `FrameBatch`.
            index: Positions of the packets. One without an IP header gets 0.0.0.0 for both addresses.
        """
        octets = np.frombuffer(buffer, np.uint8)
        columns = np.empty((2, len(index)), object)
        columns.fill(bytes(4))
        versions = self.ip_version[index]
        for version, width in ((4, 4), (6, 16)):
            same_version = np.flatnonzero(versions == version)
            if len(same_version):
                first = self.source_offset[index[same_version], None, None] + [[0], [width]]
                packed = octets[first + np.arange(width)].view(f"V{width}")
                columns[:, same_version] = packed[:, :, 0].T.tolist()
        source, destination = columns.tolist()
        return source, destination

    def five_tuples(self, buffer: memoryview, index: NDArray[np.intp]) -> Iterator[FiveTuple]:
        """Yield the five-tuple of each chosen packet; parameters as for `addresses`."""
        source, destination = self.addresses(buffer, index)
        protocol = self.protocol[index].tolist()
        sport, dport = self.sport[index].tolist(), self.dport[index].tolist()
        return map(FiveTuple._make, zip(protocol, source, sport, destination, dport, strict=True))


@lru_cache(maxsize=1 << 14)  # most packets are to or from an address that was shown before
def _address_text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


class FiveTuple(NamedTuple):
    """The protocol number and both endpoints of a packet; addresses are 4 or 16 packed bytes."""

    protocol: int
    source: bytes
    sport: int
    destination: bytes
    dport: int

    @property
    def source_text(self) -> str:
        """The source address as text (RFC 5952 for IPv6)."""
        return _address_text(self.source)

    @property
    def destination_text(self) -> str:
        """The destination address as text (RFC 5952 for IPv6)."""
        return _address_text(self.destination)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule from a rule file, checked and with the defaults filled in."""

    rule_id: int
    rule_class: RuleClass
    type: str
    name: str
    regex: str
    protocol: int | None = None
    """6 (TCP), 17 (UDP), or None for any."""
    port: int = 0
    """Source or destination port; 0 for any."""
    is_http: bool = False
    part: Literal["head", "body", "total"] = "total"
    decode: Literal["url"] | None = None
    """``url``: the rule also sees its part of the HTTP payload percent-decoded, once and twice."""
    version: str | None = None
    vendor: str | None = None
    os: str | None = None
    desc: str | None = None
    context: bool | None = None
    """True: a match also keeps its conversation; False: it does not; None: the setting decides."""


class Match(NamedTuple):
    """A rule, and where it matched the payload of one packet."""

    rule: Rule
    start: int | None
    end: int | None
    """Byte offsets in the payload: of group 1 if it took part in the match, otherwise of the whole match.

    None if they are unknown.
    """
    version: str | None = None
    """The rule's fixed version, or the text of group 1 (bytes that are not UTF-8 as ``\\xNN``)."""

    def matched(self, payload: bytes) -> bytes | None:
        """Return the bytes of the payload between the offsets; None if they are unknown."""
        return None if self.start is None else payload[self.start : self.end]


class Evidence(NamedTuple):
    """A frame that is kept, with its matches: one item of evidence.

    A named tuple, because creating a frozen dataclass takes four times as long.
    """

    frame: bytes
    timestamp_ns: int
    wirelen: int
    linktype: int
    interface: int
    five_tuple: FiveTuple
    vlan: tuple[int, ...]
    """Tag control information of each VLAN tag, outer tag first."""
    payload_start: int
    payload_end: int
    """Half-open range of the transport payload in ``frame``."""
    matches: tuple[Match, ...]
    """Empty for a frame that was kept because of its flow, not because of a rule."""
    incomplete: bool = False
    """True if the search of the payload was cut for its cost, so that more rules may match."""
    role: Role = Role.HIT
    conversation: int = 0
    """The number of its conversation; 0 if it has none."""

    @property
    def caplen(self) -> int:
        """The number of bytes kept."""
        return len(self.frame)

    @property
    def vlan_ids(self) -> list[int]:
        """The VLAN id of each tag, outer tag first."""
        return vlan_ids(self.vlan)

    @property
    def payload(self) -> bytes:
        """The transport payload."""
        return self.frame[self.payload_start : self.payload_end]


def vlan_ids(tags: Sequence[int]) -> list[int]:
    """Return the VLAN id of each tag, given as tag control information."""
    return [tci & 0x0FFF for tci in tags]
