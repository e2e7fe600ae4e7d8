"""IPv4, IPv6 and its extension headers. Runs where `decode` runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sensor.decode.frame_group import FrameGroup, Integers, Switch, finish_as, table_of
from sensor.decode.transport import icmp, tcp, udp
from sensor.decode.tunnel import gre, ipv4_inside, ipv6_inside
from sensor.model import PacketStatus
from sensor.native.extensions import LATER_FRAGMENT, WHOLE, walk_extensions
from sensor.protocols import (
    AH,
    DESTINATION,
    EIGRP,
    ESP,
    FRAGMENT,
    GRE,
    HIP,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    IGMP,
    IPV4,
    IPV6,
    MOBILITY,
    NO_NEXT_HEADER,
    OSPF,
    PIM,
    ROUTING,
    SHIM6,
    TCP,
    UDP,
    VRRP,
)

IPV4_SIZE_MIN = 20
IPV4_MORE_FRAGMENTS = 0x2000
IPV4_FRAGMENT_OFFSET = 0x1FFF
IPV6_SIZE = 40


def ipv4(group: FrameGroup) -> None:
    """Decode an IPv4 header with its options (RFC 791)."""
    group = group.require(IPV4_SIZE_MIN)
    group = group.keep(group.u8(0) >> 4 == 4)
    group.set(ip_version=4, tos=group.u8(1), protocol=group.u8(9), source_offset=group.position + 12)

    header_size = (group.u8(0) & 0x0F) * 4
    packet_end = _packet_end(group, length=group.u16(2))
    packet = group.narrow(packet_end).skip(header_size)
    valid = header_size >= IPV4_SIZE_MIN
    valid &= packet_end <= group.wire_end
    valid &= packet.position <= packet.end

    fragment = group.u16(6)
    group.decoding.first_fragment[group.frames] = fragment & IPV4_MORE_FRAGMENTS != 0
    later = fragment & IPV4_FRAGMENT_OFFSET != 0
    if np.count_nonzero(later):  # rare
        packet.keep(valid & later).finish_at_payload(PacketStatus.FRAGMENT)
        valid &= ~later
    packet = packet.keep(valid)
    IPV4_PROTOCOLS.enter(packet, packet.protocol)


def ipv6(group: FrameGroup) -> None:
    """Decode an IPv6 header and up to eight extension headers (RFC 8200); a ninth is UNKNOWN."""
    group = group.require(IPV6_SIZE)
    group = group.keep(group.u8(0) >> 4 == 6)
    group.set(
        ip_version=6,
        tos=group.u16(0) >> 4 & 0xFF,
        protocol=group.u8(6),
        source_offset=group.position + 8,
    )
    payload_length = group.u16(4)
    packet_end = _packet_end(group, length=np.where(payload_length == 0, 0, IPV6_SIZE + payload_length))
    packet = group.narrow(packet_end).skip(IPV6_SIZE).keep(packet_end <= group.wire_end)
    extended = IS_EXTENSION[packet.protocol]
    if np.count_nonzero(extended):
        packet = packet.keep(~extended).join(_behind_extensions(packet.keep(extended)))
    IPV6_PROTOCOLS.enter(packet, packet.protocol)


def _packet_end(group: FrameGroup, length: Integers) -> Integers:
    """Return where packets end; length 0, set by segmentation offload, means the end of the frame."""
    return np.where(length == 0, group.wire_end, group.position + length)


def _behind_extensions(group: FrameGroup) -> FrameGroup:
    """Decode extension headers, and return the packets behind them; finish later fragments."""
    walked = walk_extensions(group.decoding.octets, group.position, group.end, group.protocol)
    group.set(protocol=walked.protocol.astype(np.int64))
    group.decoding.first_fragment[group.frames] |= walked.is_first
    packet = replace(group, position=walked.position)
    packet.keep(walked.outcome == LATER_FRAGMENT).finish_at_payload(PacketStatus.FRAGMENT)
    return packet.keep(walked.outcome == WHOLE)


IS_EXTENSION = table_of(8, [HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION, MOBILITY, HIP, SHIM6])

no_transport = finish_as(PacketStatus.NO_TRANSPORT)

IPV4_PROTOCOLS = Switch(
    8,
    {
        tcp: [TCP],
        udp: [UDP],
        icmp: [ICMP],
        gre: [GRE],
        ipv4_inside: [IPV4],
        ipv6_inside: [IPV6],
        no_transport: [IGMP, ESP, NO_NEXT_HEADER, EIGRP, OSPF, PIM, VRRP],
    },
)

IPV6_PROTOCOLS = Switch(
    8,
    {
        tcp: [TCP],
        udp: [UDP],
        icmp: [ICMPV6],
        gre: [GRE],
        ipv4_inside: [IPV4],
        ipv6_inside: [IPV6],
        finish_as(PacketStatus.NO_PAYLOAD): [NO_NEXT_HEADER],
        no_transport: [IGMP, ESP, EIGRP, OSPF, PIM, VRRP],
    },
)
