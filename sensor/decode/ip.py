"""IPv4, IPv6 and its extension headers; runs wherever `decode` does."""

from __future__ import annotations

import numpy as np

from sensor.decode.frame_group import FrameGroup, Integers, Switch, finish_as, table_of
from sensor.decode.transport import icmp, tcp, udp
from sensor.decode.tunnel import gre, ipv4_inside, ipv6_inside
from sensor.model import PacketStatus
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
IPV6_MORE_FRAGMENTS = 0x0001
IPV6_FRAGMENT_OFFSET = 0xFFF8
EXTENSION_SIZE_MIN = 8
EXTENSIONS_MAX = 8


def ipv4(cursor: FrameGroup) -> None:
    """Pass an IPv4 header with its options (RFC 791)."""
    cursor = cursor.need(IPV4_SIZE_MIN)
    cursor = cursor.keep(cursor.u8(0) >> 4 == 4)
    cursor.set(ip_version=4, tos=cursor.u8(1), protocol=cursor.u8(9), source_offset=cursor.position + 12)

    header_size = (cursor.u8(0) & 0x0F) * 4
    packet_end = _packet_end(cursor, length=cursor.u16(2))
    packet = cursor.narrow(packet_end).skip(header_size)
    valid = header_size >= IPV4_SIZE_MIN
    valid &= packet_end <= cursor.wire_end
    valid &= packet.position <= packet.end

    fragment = cursor.u16(6)
    cursor.decoding.first_fragment[cursor.frames] = fragment & IPV4_MORE_FRAGMENTS != 0
    later = fragment & IPV4_FRAGMENT_OFFSET != 0
    if np.count_nonzero(later):  # seldom
        packet.keep(valid & later).finish_at_payload(PacketStatus.FRAGMENT)
        valid &= ~later
    packet = packet.keep(valid)
    IPV4_PROTOCOLS.enter(packet, packet.protocol)


def ipv6(cursor: FrameGroup) -> None:
    """Pass an IPv6 header and up to eight extension headers (RFC 8200); a ninth is UNKNOWN."""
    cursor = cursor.need(IPV6_SIZE)
    cursor = cursor.keep(cursor.u8(0) >> 4 == 6)
    cursor.set(
        ip_version=6,
        tos=cursor.u16(0) >> 4 & 0xFF,
        protocol=cursor.u8(6),
        source_offset=cursor.position + 8,
    )
    payload_length = cursor.u16(4)
    packet_end = _packet_end(cursor, length=np.where(payload_length == 0, 0, IPV6_SIZE + payload_length))
    packet = cursor.narrow(packet_end).skip(IPV6_SIZE).keep(packet_end <= cursor.wire_end)
    for _ in range(EXTENSIONS_MAX):
        extended = IS_EXTENSION[packet.protocol]
        if not np.count_nonzero(extended):
            break
        packet = packet.keep(~extended).join(_pass_extension(packet.keep(extended)))
    IPV6_PROTOCOLS.enter(packet, packet.protocol)


def _packet_end(cursor: FrameGroup, length: Integers) -> Integers:
    """Where packets of that length end; 0, which segmentation offload writes, is all that the frame has."""
    return np.where(length == 0, cursor.wire_end, cursor.position + length)


def _pass_extension(cursor: FrameGroup) -> FrameGroup:
    """Pass the extension header that ``protocol`` names (RFC 8200, section 4); later fragments end there.

    All kinds at once: a batch takes no more than eight such steps, whatever chains were crafted for it.
    """
    cursor = cursor.need(EXTENSION_SIZE_MIN)
    cursor = cursor.need(_extension_size(cursor))
    packet = cursor.skip(_extension_size(cursor))
    fragment = np.where(cursor.protocol == FRAGMENT, cursor.u16(2), 0)
    cursor.decoding.first_fragment[cursor.frames] |= fragment & IPV6_MORE_FRAGMENTS != 0
    later = fragment & IPV6_FRAGMENT_OFFSET != 0
    cursor.set(protocol=cursor.u8(0))
    packet.keep(later).finish_at_payload(PacketStatus.FRAGMENT)
    return packet.keep(~later)


def _extension_size(cursor: FrameGroup) -> Integers:
    """AH counts in fours (RFC 4302, section 2.2), the others in eights; a fragment header is one of those."""
    kind, length = cursor.protocol, cursor.u8(1)
    return np.select([kind == FRAGMENT, kind == AH], [8, (length + 2) * 4], (length + 1) * 8)


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
