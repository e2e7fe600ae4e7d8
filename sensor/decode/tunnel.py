"""Headers with another packet behind them; runs wherever `decode` does.

Each layer finds where the inner packet starts and what it is, and leaves it: `decode` goes on with
those of all layers together. Ethertypes name what is inside, as GRE and GENEVE do themselves.
"""

from __future__ import annotations

import numpy as np

from sensor.decode.ethertype import ETHERNET, IPV4, IPV6, MPLS, NOT_IP, PPPOE_SESSION, TAGS
from sensor.decode.frame_group import FrameGroup, Layer, Switch, finish_as, table_of
from sensor.model import PacketStatus

GRE_SIZE_MIN = 4
GRE_CHECKSUM, GRE_KEY, GRE_SEQUENCE = 0x8000, 0x2000, 0x1000
GRE_UNKNOWN = 0x4C07
"""Routing and what else a receiver has to refuse (RFC 2784, section 2.3); any version but 0."""

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
    """Make the layer that is the inner packet itself, as in IP in IP (RFC 2003, RFC 2473, RFC 4213)."""

    def layer(cursor: FrameGroup) -> None:
        _whole(cursor).leave(ethertype)

    return layer


ipv4_inside, ipv6_inside = _inside(IPV4), _inside(IPV6)


def gre(cursor: FrameGroup) -> None:
    """Pass a GRE header (RFC 2784) with checksum, key and sequence number (RFC 2890)."""
    cursor = _whole(cursor).need(GRE_SIZE_MIN)
    flags, ethertype = cursor.u16(0), cursor.u16(2)
    words = sum((flags & field != 0).astype(np.int64) for field in (GRE_CHECKSUM, GRE_KEY, GRE_SEQUENCE))
    inner = cursor.skip(GRE_SIZE_MIN + 4 * words)
    known = (flags & GRE_UNKNOWN == 0) & IS_INNER[ethertype]
    cursor.keep(~known).finish(PacketStatus.UNKNOWN)
    known &= inner.position <= inner.end
    inner.keep(known).leave(ethertype[known])


def in_udp(datagram: FrameGroup) -> None:
    """Pass VXLAN and GENEVE headers; a datagram without one, or without a packet, is the payload it is."""
    dport = datagram.decoding.packets.dport[datagram.frames]
    is_vxlan, is_geneve = dport == VXLAN_PORT, dport == GENEVE_PORT
    if np.count_nonzero(is_vxlan | is_geneve):  # seldom
        whole = ~datagram.decoding.first_fragment[datagram.frames]
        _vxlan(datagram.keep(is_vxlan & whole))
        _geneve(datagram.keep(is_geneve & whole))


def _vxlan(cursor: FrameGroup) -> None:
    """Require the I flag (RFC 7348, section 5), and of the others none but group policy's, as Linux does."""
    cursor = cursor.need(VXLAN_SIZE)
    valid = cursor.u8(0) & VXLAN_FLAGS == VXLAN_VNI
    cursor.keep(valid).skip(VXLAN_SIZE).leave_datagram(ETHERNET)


def _geneve(cursor: FrameGroup) -> None:
    """Require version 0, whole options, and a packet inside that is known (RFC 8926, section 3.4)."""
    cursor = cursor.need(GENEVE_SIZE_MIN)
    first, ethertype = cursor.u8(0), cursor.u16(2)
    inner = cursor.skip(GENEVE_SIZE_MIN + (first & 0x3F) * 4)
    valid = (first >> 6 == 0) & IS_INNER[ethertype] & (inner.position <= inner.end)
    inner.keep(valid).leave_datagram(ethertype[valid])


def mpls(cursor: FrameGroup) -> None:
    """Pass up to eight labels (RFC 3032); a ninth is UNKNOWN.

    Nothing in them says what follows: it is IP where its first four bits are 4 or 6 (RFC 4928).
    """
    cursor = cursor.need(LABEL_SIZE)
    for _ in range(LABELS_MAX - 1):
        above = cursor.u8(2) & 1 == 0
        if not np.count_nonzero(above):
            break
        cursor = cursor.skip(above * LABEL_SIZE).need(LABEL_SIZE)
    bottom = cursor.u8(2) & 1 != 0
    cursor.keep(~bottom).finish(PacketStatus.UNKNOWN)
    inner = cursor.keep(bottom).skip(LABEL_SIZE).need(1)
    version = inner.u8(0) >> 4
    inner.keep(version == 4).leave(IPV4)
    inner.keep(version == 6).leave(IPV6)
    _pseudowire(inner.keep((version != 4) & (version != 6)))


def _pseudowire(cursor: FrameGroup) -> None:
    """Pass the control word in front of an Ethernet frame, where there is one (RFC 4448, section 4.6).

    It starts with four bits of 0, as many addresses do: the ethertype shows where the frame starts.
    Four bits of 1 start a control channel (RFC 5586); that and what shows no ethertype is UNKNOWN.
    """
    cursor = cursor.need(ETHERNET_SIZE)
    first = cursor.u8(0) >> 4
    controlled = (first == 0) & (cursor.position + CONTROL_WORD_SIZE + ETHERNET_SIZE <= cursor.end)
    controlled[controlled] = IS_IN_ETHERNET[cursor.keep(controlled).u16(CONTROL_WORD_SIZE + 12)]
    plain = ~controlled & (first != 1) & IS_IN_ETHERNET[cursor.u16(12)]
    cursor.finish(PacketStatus.UNKNOWN)
    cursor.keep(controlled).skip(CONTROL_WORD_SIZE).leave(ETHERNET)
    cursor.keep(plain).leave(ETHERNET)


def pppoe(cursor: FrameGroup) -> None:
    """Pass a PPPoE session header (RFC 2516, section 4) and the protocol of PPP (RFC 1661, section 2)."""
    cursor = cursor.need(PPPOE_SIZE + PPP_SIZE)
    end, protocol = cursor.position + PPPOE_SIZE + cursor.u16(4), cursor.u16(6)
    known = cursor.u16(0) == PPPOE_SESSION_DATA
    cursor.keep(~known).finish(PacketStatus.UNKNOWN)
    inner = cursor.narrow(end).skip(PPPOE_SIZE + PPP_SIZE)
    known &= (end <= cursor.wire_end) & (inner.position <= inner.end)
    PPP_PROTOCOLS.enter(inner.keep(known), protocol[known])


def _whole(cursor: FrameGroup) -> FrameGroup:
    """Go on with packets that are no fragments; the first of several is matched as the later ones are."""
    first = cursor.decoding.first_fragment[cursor.frames]
    cursor.keep(first).finish_at_payload(PacketStatus.FRAGMENT)
    return cursor.keep(~first)


PPP_PROTOCOLS = Switch(
    16,
    {
        ipv4_inside: [PPP_IPV4],
        ipv6_inside: [PPP_IPV6],
        finish_as(PacketStatus.NOT_IP): PPP_CONTROL,
    },
)
