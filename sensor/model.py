"""The words all rooms share: frames, packets, rules, matches, evidence. Runs in every process.

A batch is a structure of arrays, so that numpy works on whole batches; a single
packet becomes an object only after it matched.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

RuleClass = Literal["service", "device", "os", "midware", "threat"]
RULE_CLASSES: tuple[RuleClass, ...] = ("service", "device", "os", "midware", "threat")


class LinkType(IntEnum):
    """Link types that are decoded (https://www.tcpdump.org/linktypes.html)."""

    NULL = 0
    ETHERNET = 1
    RAW = 101
    LOOP = 108
    LINUX_SLL = 113
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276


class PacketStatus(IntEnum):
    """What parsing a frame came to; mirrors ``enum packet_status`` in ``bpf/abi.h``."""

    PAYLOAD = 0
    NO_PAYLOAD = 1
    NOT_IP = 2
    NO_TRANSPORT = 3
    FRAGMENT = 4
    TUNNEL = 5
    """The kernel's word alone: `decode` enters the tunnel, and speaks of the packet inside."""
    UNKNOWN = 6
    MALFORMED = 7


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Frames of one link type, standing in one buffer; every array has one entry a frame.

    ``buffer`` may be the mapped ring itself: it is valid until the batch is released,
    so whoever keeps a frame copies it.
    """

    buffer: memoryview
    """Unsigned bytes, one dimension, C-contiguous."""
    start: NDArray[np.int64]
    """Offset of the frame's first byte in ``buffer``."""
    caplen: NDArray[np.int64]
    """Bytes kept of the frame."""
    wirelen: NDArray[np.int64]
    """Bytes of the frame on the wire."""
    timestamp_ns: NDArray[np.int64]
    """Nanoseconds since the epoch, UTC."""
    interface: NDArray[np.int64]
    """Interface index of a live frame; the interface's number in its file otherwise."""
    linktype: int = LinkType.ETHERNET
    flow_packets: NDArray[np.int64] | None = None
    """Which packet with payload of its flow a frame is, from 1, as the kernel counted; 0 where it did not."""
    flow_born_jiffies: NDArray[np.int64] | None = None
    """When that flow began, in the kernel's ticks: tells it from an earlier one of the same endpoints."""

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class PacketBatch:
    """The decoded view of a `FrameBatch`, entry for entry.

    Where a frame carries a packet inside another, all is said of the innermost one, but for the VLAN tags.
    Offsets are positions in the frame batch's buffer; they are 0 where the status says
    that the thing was not found.
    """

    status: NDArray[np.uint8]
    """A `PacketStatus`."""
    ip_version: NDArray[np.uint8]
    """4, 6, or 0 where there is no IP header."""
    protocol: NDArray[np.uint8]
    """IANA protocol number of the transport, behind IPv6 extension headers."""
    tos: NDArray[np.uint8]
    """IPv4 type of service or IPv6 traffic class."""
    vlan_count: NDArray[np.uint8]
    """Tags in front of the outermost IP header, tunnel or whatever follows, 0 to 2."""
    vlan_tci: NDArray[np.uint16]
    """Shape (n, 2): tag control information, outer tag first."""
    source_offset: NDArray[np.int64]
    """Where the source address starts; 4 or 16 bytes by ``ip_version``, the destination right behind it."""
    sport: NDArray[np.uint16]
    dport: NDArray[np.uint16]
    """Ports, 0 where the protocol has none."""
    payload_start: NDArray[np.int64]
    payload_end: NDArray[np.int64]
    """The transport payload: from, up to."""

    def __len__(self) -> int:
        return len(self.status)


class FiveTuple(NamedTuple):
    """Protocol number and both endpoints, addresses as packed bytes (4 or 16)."""

    protocol: int
    source: bytes
    sport: int
    destination: bytes
    dport: int

    @property
    def source_text(self) -> str:
        """The source address as text (RFC 5952 for IPv6)."""
        return str(ipaddress.ip_address(self.source))

    @property
    def destination_text(self) -> str:
        """The destination address as text (RFC 5952 for IPv6)."""
        return str(ipaddress.ip_address(self.destination))


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as its file gives it, checked and with defaults filled in."""

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


class Match(NamedTuple):
    """A rule and where it hit one packet's payload."""

    rule: Rule
    start: int
    end: int
    """Byte offsets in the payload: of group 1 where it took part in the hit, of the whole hit otherwise."""
    version: str | None = None
    """The rule's fixed version, or the text of group 1 (bytes that are not UTF-8 as ``\\xNN``)."""


class Evidence(NamedTuple):
    """A frame that is kept, with its matches.

    A named tuple: one is made for each hit, and a frozen dataclass takes four times as long.
    """

    frame: bytes
    timestamp_ns: int
    wirelen: int
    linktype: int
    interface: int
    five_tuple: FiveTuple
    vlan: tuple[int, ...]
    """Tag control information of each tag, outer first."""
    payload_start: int
    payload_end: int
    """The transport payload inside ``frame``."""
    matches: tuple[Match, ...]
    """Empty for a frame that was kept for its flow, not for a rule."""

    @property
    def caplen(self) -> int:
        """Bytes kept."""
        return len(self.frame)

    @property
    def payload(self) -> bytes:
        """The transport payload."""
        return self.frame[self.payload_start : self.payload_end]


def rule_classes(items: Sequence[Evidence]) -> list[str]:
    """Give the class of each match; ``flow`` for a piece without one, which was kept for its flow alone."""
    flows = sum(not item.matches for item in items)
    return [match.rule.rule_class for item in items for match in item.matches] + ["flow"] * flows
