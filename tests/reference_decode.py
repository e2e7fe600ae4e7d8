"""A simple decoder for one frame at a time, with which the tests compare `sensor.decode` and the kernel.

``kept`` is the captured part of the frame. Lengths in headers are checked against ``end``, the end of
the enclosing layer on the wire; bytes are read only from ``kept``.
"""

from __future__ import annotations

import copy
import struct
from dataclasses import dataclass, field

from sensor.model import LinkType, PacketStatus

TAGS = (0x8100, 0x88A8, 0x9100)
NOT_IP = (0x0806, 0x8035, 0x88CC, 0x8809, 0x888E, 0x88F7, 0x8902)
EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)
NO_TRANSPORT = (2, 50, 88, 89, 103, 112)
MPLS = (0x8847, 0x8848)
INNER = (0x0800, 0x86DD, 0x6558, *MPLS)
IN_ETHERNET = (0x0800, 0x86DD, 0x8864, *TAGS, *NOT_IP, *MPLS)
FAMILIES = {2: 4, 10: 6, 24: 6, 28: 6, 30: 6}


class Malformed(Exception):  # noqa: N818 - a status, not an error
    """A header is cut off, or a length is wrong."""


@dataclass
class Packet:
    """The fields of a `PacketBatch` for one packet, with offsets from the start of the frame."""

    status: PacketStatus = PacketStatus.MALFORMED
    ip_version: int = 0
    protocol: int = 0
    tos: int = 0
    vlan: list[int] = field(default_factory=list)
    source_offset: int = 0
    sport: int = 0
    dport: int = 0
    payload: tuple[int, int] = (0, 0)
    tcp_flags: int = 0
    tunnels: int | None = field(default=2, compare=False)
    """Number of tunnels that may still be entered; None if decoding ends at a tunnel, as in the kernel."""


def reference_decode(
    kept: bytes, wirelen: int, linktype: int = LinkType.ETHERNET, *, enters: bool = True
) -> Packet:
    """Decode one frame; without ``enters`` as the kernel does, which ends at a tunnel with TUNNEL."""
    packet = Packet(tunnels=2 if enters else None)
    try:
        packet.status = link(packet, kept, wirelen, linktype)
    except Malformed:
        packet.status = PacketStatus.MALFORMED
    return packet


def unpack(layout: str, kept: bytes, at: int, end: int) -> tuple[int, ...]:
    """Return the fields of a header, which must lie before ``end`` and within ``kept``."""
    if at + struct.calcsize(layout) > min(end, len(kept)):
        raise Malformed
    return struct.unpack_from(layout, kept, at)


def link(packet: Packet, kept: bytes, end: int, linktype: int) -> PacketStatus:
    """Decode the link layer."""
    match linktype:
        case LinkType.ETHERNET:
            return ethernet(packet, kept, 0, end)
        case LinkType.LINUX_SLL:
            return ethertype(packet, kept, 16, end, unpack("!14xH", kept, 0, end)[0])
        case LinkType.LINUX_SLL2:
            return ethertype(packet, kept, 20, end, unpack("!H18x", kept, 0, end)[0])
        case LinkType.NULL | LinkType.LOOP:
            families = {unpack("!I", kept, 0, end)[0]}
            if linktype == LinkType.NULL:
                families.add(unpack("<I", kept, 0, end)[0])
            versions = [FAMILIES[family] for family in families if family in FAMILIES]
            return ip(packet, kept, 4, end, versions[0]) if versions else PacketStatus.UNKNOWN
        case LinkType.RAW | LinkType.RAW_BSD | LinkType.RAW_OPENBSD:
            version = unpack("!B", kept, 0, end)[0] >> 4
            if version not in (4, 6):
                raise Malformed
            return ip(packet, kept, 0, end, version)
        case LinkType.IPV4 | LinkType.IPV6:
            return ip(packet, kept, 0, end, 4 if linktype == LinkType.IPV4 else 6)
    return PacketStatus.UNKNOWN


def ethernet(packet: Packet, kept: bytes, at: int, end: int) -> PacketStatus:
    """Decode an Ethernet header, outside or inside a tunnel."""
    return ethertype(packet, kept, at + 14, end, unpack("!12xH", kept, at, end)[0])


def ethertype(packet: Packet, kept: bytes, at: int, end: int, number: int) -> PacketStatus:
    """Decode up to two VLAN tags; those inside tunnels are not reported."""
    tags: list[int] = packet.vlan if packet.tunnels in (2, None) else []
    while number in TAGS and len(tags) < 2:
        tci, number = unpack("!HH", kept, at, end)
        tags.append(tci)
        at += 4
    if number in (0x0800, 0x86DD):
        return ip(packet, kept, at, end, 4 if number == 0x0800 else 6)
    if number in MPLS or number == 0x8864:
        if packet.tunnels is None:
            return PacketStatus.TUNNEL
        return (mpls if number in MPLS else pppoe)(packet, kept, at, end)
    if number < 0x0600 or number in NOT_IP:
        return PacketStatus.NOT_IP
    return PacketStatus.UNKNOWN


def ip(packet: Packet, kept: bytes, l3: int, end: int, version: int) -> PacketStatus:
    """Decode the IP header of this version."""
    return (ipv4 if version == 4 else ipv6)(packet, kept, l3, end)


def ipv4(packet: Packet, kept: bytes, l3: int, end: int) -> PacketStatus:
    """Decode an IPv4 header."""
    first, tos, total_length, fragment, protocol = unpack("!BBHxxHxB10x", kept, l3, end)
    if first >> 4 != 4:
        raise Malformed
    packet.ip_version, packet.tos, packet.protocol, packet.source_offset = 4, tos, protocol, l3 + 12
    header_size = (first & 15) * 4
    ip_end = l3 + total_length if total_length else end
    if header_size < 20 or l3 + header_size > min(ip_end, len(kept)) or ip_end > end:
        raise Malformed
    if fragment & 0x1FFF:
        return payload(packet, kept, l3 + header_size, ip_end, PacketStatus.FRAGMENT)
    return transport(packet, kept, l3 + header_size, ip_end, bool(fragment & 0x2000))


def ipv6(packet: Packet, kept: bytes, l3: int, end: int) -> PacketStatus:
    """Decode an IPv6 header and its extension headers."""
    first, payload_length, protocol = unpack("!IHB33x", kept, l3, end)
    if first >> 28 != 6:
        raise Malformed
    packet.ip_version, packet.tos, packet.source_offset = 6, first >> 20 & 0xFF, l3 + 8
    packet.protocol = protocol
    l4 = l3 + 40
    ip_end = l4 + payload_length if payload_length else end
    if ip_end > end:
        raise Malformed
    first_fragment = False
    for _ in range(8):
        if packet.protocol not in EXTENSIONS:
            break
        next_header, length, fragment = unpack("!BBH4x", kept, l4, ip_end)
        size = {44: 8, 51: (length + 2) * 4}.get(packet.protocol, (length + 1) * 8)
        if l4 + size > min(ip_end, len(kept)):
            raise Malformed
        is_fragment = packet.protocol == 44
        packet.protocol = next_header
        l4 += size
        if is_fragment and fragment >> 3:
            return payload(packet, kept, l4, ip_end, PacketStatus.FRAGMENT)
        first_fragment |= is_fragment and bool(fragment & 1)
    if packet.protocol in EXTENSIONS:
        return PacketStatus.UNKNOWN
    return transport(packet, kept, l4, ip_end, first_fragment)


def transport(packet: Packet, kept: bytes, l4: int, end: int, first_fragment: bool) -> PacketStatus:
    """Decode the transport header."""
    match packet.protocol, packet.ip_version:
        case 6, _:
            packet.sport, packet.dport, offset, packet.tcp_flags = unpack("!HH8xBB6x", kept, l4, end)
            header_size = (offset >> 4) * 4
            if header_size < 20 or l4 + header_size > min(end, len(kept)):
                raise Malformed
            return payload(packet, kept, l4 + header_size, end, PacketStatus.PAYLOAD)
        case 17, _:
            packet.sport, packet.dport, length = unpack("!HHHxx", kept, l4, end)
            if 0 < length < 8 or (l4 + length > end and not first_fragment):
                raise Malformed
            end = min(end, l4 + length) if length else end
            return datagram(packet, kept, l4 + 8, end, first_fragment)
        case (1, 4) | (58, 6):
            unpack("!8x", kept, l4, end)
            return payload(packet, kept, l4 + 8, end, PacketStatus.PAYLOAD)
        case 4 | 41 | 47, _:
            return ip_tunnel(packet, kept, l4, end, first_fragment)
        case 59, version:
            return PacketStatus.NO_PAYLOAD if version == 6 else PacketStatus.NO_TRANSPORT
    return PacketStatus.NO_TRANSPORT if packet.protocol in NO_TRANSPORT else PacketStatus.UNKNOWN


def datagram(packet: Packet, kept: bytes, at: int, end: int, first_fragment: bool) -> PacketStatus:
    """Decode a datagram as payload, or as the tunnel that its port names."""
    status = payload(packet, kept, at, end, PacketStatus.PAYLOAD)
    if status != PacketStatus.PAYLOAD or first_fragment or packet.dport not in (4789, 6081):
        return status
    if packet.tunnels is None:
        packet.payload = 0, 0
        return PacketStatus.TUNNEL
    outside = copy.copy(packet)
    try:
        status = (vxlan if packet.dport == 4789 else geneve)(packet, kept, at, end)
    except Malformed:
        status = PacketStatus.MALFORMED
    if status in (PacketStatus.UNKNOWN, PacketStatus.MALFORMED):
        vars(packet).update(vars(outside))
        return PacketStatus.PAYLOAD
    return status


def ip_tunnel(packet: Packet, kept: bytes, at: int, end: int, first_fragment: bool) -> PacketStatus:
    """Decode a tunnel directly over IP."""
    if first_fragment:
        return payload(packet, kept, at, end, PacketStatus.FRAGMENT)
    if packet.tunnels is None:
        return PacketStatus.TUNNEL
    if packet.protocol == 47:
        return gre(packet, kept, at, end)
    return inside(packet, kept, at, end, 0x0800 if packet.protocol == 4 else 0x86DD)


def gre(packet: Packet, kept: bytes, at: int, end: int) -> PacketStatus:
    """Decode a GRE header of version 0 without routing."""
    flags, number = unpack("!HH", kept, at, end)
    c, r, k, s, *rest = (int(bit) for bit in f"{flags:016b}")
    if r or any(rest[:2]) or any(rest[-3:]) or number not in INNER:
        return PacketStatus.UNKNOWN
    size = 4 * (1 + c + k + s)
    unpack(f"!{size}x", kept, at, end)
    return inside(packet, kept, at + size, end, number)


def vxlan(packet: Packet, kept: bytes, at: int, end: int) -> PacketStatus:
    """Decode a VXLAN header, with or without the group policy flag; anything else is payload."""
    if at + 8 > min(end, len(kept)) or kept[at] not in (0x08, 0x88):
        return PacketStatus.PAYLOAD
    return inside(packet, kept, at + 8, end, 0x6558)


def geneve(packet: Packet, kept: bytes, at: int, end: int) -> PacketStatus:
    """Decode a GENEVE header with its options; anything else is payload."""
    try:
        first, number = unpack("!BxH4x", kept, at, end)
        size = 8 + first % 64 * 4
        unpack(f"!{size}x", kept, at, end)
    except Malformed:
        return PacketStatus.PAYLOAD
    if first >= 64 or number not in INNER:
        return PacketStatus.PAYLOAD
    return inside(packet, kept, at + size, end, number)


def mpls(packet: Packet, kept: bytes, at: int, end: int) -> PacketStatus:
    """Decode up to eight labels, and guess the packet after them."""
    for _ in range(8):
        [label] = unpack("!I", kept, at, end)
        at += 4
        if label & 0x100:
            break
    else:
        return PacketStatus.UNKNOWN
    nibble = unpack("!B", kept, at, end)[0] >> 4
    if nibble in (4, 6):
        return inside(packet, kept, at, end, 0x0800 if nibble == 4 else 0x86DD)
    [plain] = unpack("!12xH", kept, at, end)
    if nibble == 0 and at + 18 <= min(end, len(kept)) and unpack("!16xH", kept, at, end)[0] in IN_ETHERNET:
        return inside(packet, kept, at + 4, end, 0x6558)
    if nibble != 1 and plain in IN_ETHERNET:
        return inside(packet, kept, at, end, 0x6558)
    return PacketStatus.UNKNOWN


def pppoe(packet: Packet, kept: bytes, at: int, end: int) -> PacketStatus:
    """Decode a PPPoE session header and the PPP protocol."""
    kind, code, length, protocol = unpack("!BBxxHH", kept, at, end)
    if kind != 0x11 or code:
        return PacketStatus.UNKNOWN
    if length < 2 or at + 6 + length > end:
        raise Malformed
    end = at + 6 + length
    if protocol in (0x21, 0x57):
        return inside(packet, kept, at + 8, end, 0x0800 if protocol == 0x21 else 0x86DD)
    return PacketStatus.NOT_IP if protocol >= 0x8000 else PacketStatus.UNKNOWN


def inside(packet: Packet, kept: bytes, at: int, end: int, number: int) -> PacketStatus:
    """Decode the inner packet; in a third tunnel it is UNKNOWN."""
    packet.payload = 0, 0
    if not packet.tunnels:
        return PacketStatus.UNKNOWN
    packet.tunnels -= 1
    packet.ip_version = packet.protocol = packet.tos = packet.source_offset = packet.sport = packet.dport = 0
    packet.tcp_flags = 0
    if number in MPLS:
        return mpls(packet, kept, at, end)
    if number == 0x6558:
        return ethernet(packet, kept, at, end)
    return ip(packet, kept, at, end, 4 if number == 0x0800 else 6)


def payload(packet: Packet, kept: bytes, start: int, end: int, status: PacketStatus) -> PacketStatus:
    """Set the rest of the packet as payload, as far as it was captured."""
    end = min(end, len(kept))
    if start >= end:
        return PacketStatus.NO_PAYLOAD
    packet.payload = start, end
    return status
