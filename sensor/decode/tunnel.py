"""Headers of tunnels. Runs where `decode` runs.

Each layer finds the start and the type of the inner packet and defers it; `decode` then continues with
the inner packets of all layers together. Types are ethertypes, as in GRE and GENEVE.
"""

from __future__ import annotations

import numpy as np

from sensor.decode.ethertype import ETHERNET, IPV4, IPV6, MPLS, NOT_IP, PPPOE_SESSION, TAGS
from sensor.decode.frame_group import FrameGroup, Layer, Switch, finish_as, table_of
from sensor.model import PacketStatus

GRE_SIZE_MIN = 4
GRE_CHECKSUM, GRE_KEY, GRE_SEQUENCE = 0x8000, 0x2000, 0x1000
GRE_UNKNOWN = 0x4C07
"""Routing and other bits a receiver must reject (RFC 2784, section 2.3), and any version but 0."""

VXLAN_PORT, VXLAN_SIZE = 4789, 8
VXLAN_FLAGS, VXLAN_VNI = 0x7F, 0x08
GENEVE_PORT, GENEVE_SIZE_MIN = 6081, 8

LABEL_SIZE = 4
LABELS_MAX = 8
CONTROL_WORD_SIZE = 4
ETHERNET_SIZE = 14

PPPOE_SIZE = 6
PPPOE_SESSION_DATA = 0x1100  # version 1, type 1, code 0
PPP_SIZE = 2
PPP_IPV4, PPP_IPV6 = 0x0021, 0x0057
PPP_CONTROL = range(0x8000, 0x10000)

IS_INNER = table_of(16, [IPV4, IPV6, ETHERNET, *MPLS])
IS_IN_ETHERNET = table_of(16, [IPV4, IPV6, *TAGS, *NOT_IP, *MPLS, PPPOE_SESSION])


def _inside(ethertype: int) -> Layer:
    """Return the layer for IP in IP, where the inner packet starts at once (RFC 2003, RFC 2473, RFC 4213)."""

    def layer(group: FrameGroup) -> None:
        _without_fragments(group).defer(ethertype)

    return layer


ipv4_inside, ipv6_inside = _inside(IPV4), _inside(IPV6)


def gre(group: FrameGroup) -> None:
    """Decode a GRE header (RFC 2784) with checksum, key and sequence number (RFC 2890)."""
    group = _without_fragments(group).require(GRE_SIZE_MIN)
    flags, ethertype = group.u16(0), group.u16(2)
    words = sum((flags & field != 0).astype(np.int64) for field in (GRE_CHECKSUM, GRE_KEY, GRE_SEQUENCE))
    inner = group.skip(GRE_SIZE_MIN + 4 * words)
    known = (flags & GRE_UNKNOWN == 0) & IS_INNER[ethertype]
    group.keep(~known).finish(PacketStatus.UNKNOWN)
    known &= inner.position <= inner.end
    inner.keep(known).defer(ethertype[known])


def in_udp(datagram: FrameGroup) -> None:
    """Decode VXLAN and GENEVE headers; a datagram without one, or without a packet, stays payload."""
    dport = datagram.decoding.packets.dport[datagram.frames]
    is_vxlan, is_geneve = dport == VXLAN_PORT, dport == GENEVE_PORT
    if np.count_nonzero(is_vxlan | is_geneve):  # rare
        whole = ~datagram.decoding.first_fragment[datagram.frames]
        _vxlan(datagram.keep(is_vxlan & whole))
        _geneve(datagram.keep(is_geneve & whole))


def _vxlan(group: FrameGroup) -> None:
    """Decode VXLAN: the I flag is required (RFC 7348, section 5); group policy's is allowed, as in Linux."""
    group = group.require(VXLAN_SIZE)
    valid = group.u8(0) & VXLAN_FLAGS == VXLAN_VNI
    group.keep(valid).skip(VXLAN_SIZE).defer_datagram(ETHERNET)


def _geneve(group: FrameGroup) -> None:
    """Decode GENEVE of version 0 with whole options and a known inner packet (RFC 8926, section 3.4)."""
    group = group.require(GENEVE_SIZE_MIN)
    first, ethertype = group.u8(0), group.u16(2)
    inner = group.skip(GENEVE_SIZE_MIN + (first & 0x3F) * 4)
    valid = (first >> 6 == 0) & IS_INNER[ethertype] & (inner.position <= inner.end)
    inner.keep(valid).defer_datagram(ethertype[valid])


def mpls(group: FrameGroup) -> None:
    """Decode up to eight labels (RFC 3032); a ninth is UNKNOWN.

    Labels do not name the inner packet: it is IP if its first four bits are 4 or 6 (RFC 4928).
    """
    group = group.require(LABEL_SIZE)
    for _ in range(LABELS_MAX - 1):
        above = group.u8(2) & 1 == 0
        if not np.count_nonzero(above):
            break
        group = group.skip(above * LABEL_SIZE).require(LABEL_SIZE)
    bottom = group.u8(2) & 1 != 0
    group.keep(~bottom).finish(PacketStatus.UNKNOWN)
    inner = group.keep(bottom).skip(LABEL_SIZE).require(1)
    version = inner.u8(0) >> 4
    inner.keep(version == 4).defer(IPV4)
    inner.keep(version == 6).defer(IPV6)
    _pseudowire(inner.keep((version != 4) & (version != 6)))


def _pseudowire(group: FrameGroup) -> None:
    """Decode an Ethernet frame with or without a control word in front (RFC 4448, section 4.6).

    A control word starts with four zero bits, as many addresses do, so the ethertype decides where the
    frame starts. A first half byte of 1 is a control channel (RFC 5586): UNKNOWN, as is a frame without a
    known ethertype.
    """
    group = group.require(ETHERNET_SIZE)
    first = group.u8(0) >> 4
    controlled = (first == 0) & (group.position + CONTROL_WORD_SIZE + ETHERNET_SIZE <= group.end)
    controlled[controlled] = IS_IN_ETHERNET[group.keep(controlled).u16(CONTROL_WORD_SIZE + 12)]
    plain = ~controlled & (first != 1) & IS_IN_ETHERNET[group.u16(12)]
    group.finish(PacketStatus.UNKNOWN)
    group.keep(controlled).skip(CONTROL_WORD_SIZE).defer(ETHERNET)
    group.keep(plain).defer(ETHERNET)


def pppoe(group: FrameGroup) -> None:
    """Decode a PPPoE session header (RFC 2516, section 4) and the PPP protocol (RFC 1661, section 2)."""
    group = group.require(PPPOE_SIZE + PPP_SIZE)
    end, protocol = group.position + PPPOE_SIZE + group.u16(4), group.u16(6)
    known = group.u16(0) == PPPOE_SESSION_DATA
    group.keep(~known).finish(PacketStatus.UNKNOWN)
    inner = group.narrow(end).skip(PPPOE_SIZE + PPP_SIZE)
    known &= (end <= group.wire_end) & (inner.position <= inner.end)
    PPP_PROTOCOLS.enter(inner.keep(known), protocol[known])


def _without_fragments(group: FrameGroup) -> FrameGroup:
    """Return the packets that are not fragments; finish first fragments as FRAGMENT, like later ones."""
    first = group.decoding.first_fragment[group.frames]
    group.keep(first).finish_at_payload(PacketStatus.FRAGMENT)
    return group.keep(~first)


PPP_PROTOCOLS = Switch(
    16,
    {
        ipv4_inside: [PPP_IPV4],
        ipv6_inside: [PPP_IPV6],
        finish_as(PacketStatus.NOT_IP): PPP_CONTROL,
    },
)
