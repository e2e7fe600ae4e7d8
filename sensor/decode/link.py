"""Link-layer headers of all link types, VLAN tags, and what follows them; runs wherever `decode` does."""

from __future__ import annotations

import numpy as np

from sensor.decode.ethertype import ETHERNET, IPV4, IPV6, LENGTHS, MPLS, NOT_IP, PPPOE_SESSION, TAGS
from sensor.decode.frame_group import FrameGroup, Integers, Layer, Switch, finish_as, table_of
from sensor.decode.ip import ipv4, ipv6
from sensor.decode.tunnel import mpls, pppoe
from sensor.model import LinkType, PacketStatus

ETHERNET_SIZE = 14
TAG_SIZE = 4
TAGS_MAX = 2
FAMILY_SIZE = 4
LINUX_SLL_SIZE = 16
LINUX_SLL2_SIZE = 20

AF_INET = 2
AF_INET6 = (10, 24, 28, 30)  # Linux; NetBSD and OpenBSD; FreeBSD; macOS


def ethernet(cursor: FrameGroup) -> None:
    """Pass an Ethernet header: both addresses and the ethertype."""
    cursor = cursor.need(ETHERNET_SIZE)
    network(cursor.skip(ETHERNET_SIZE), cursor.u16(12))


def inner_ethernet(cursor: FrameGroup) -> None:
    """Pass an Ethernet header inside a tunnel; its tags are passed too, but not the packet's."""
    cursor = cursor.need(ETHERNET_SIZE)
    network(cursor.skip(ETHERNET_SIZE), cursor.u16(12), is_inner=True)


def linux_sll(cursor: FrameGroup) -> None:
    """Pass a Linux cooked header (https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html)."""
    cursor = cursor.need(LINUX_SLL_SIZE)
    network(cursor.skip(LINUX_SLL_SIZE), cursor.u16(14))


def linux_sll2(cursor: FrameGroup) -> None:
    """Pass a Linux cooked header (https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html)."""
    cursor = cursor.need(LINUX_SLL2_SIZE)
    network(cursor.skip(LINUX_SLL2_SIZE), cursor.u16(0))


def network(cursor: FrameGroup, ethertype: Integers, *, is_inner: bool = False) -> None:
    """Pass up to two VLAN tags (IEEE 802.1Q) and enter what the ethertype names; a third tag is UNKNOWN."""
    for depth in range(TAGS_MAX):
        tagged = IS_TAG[ethertype]
        if not np.count_nonzero(tagged):
            break
        whole = ~tagged | (cursor.position + TAG_SIZE <= cursor.end)
        cursor, ethertype, tagged = cursor.keep(whole), ethertype[whole], tagged[whole]
        tag = cursor.keep(tagged)
        if not is_inner:
            tag.decoding.packets.vlan_tci[tag.frames, depth] = tag.u16(0)
            tag.set(vlan_count=depth + 1)
        ethertype[tagged] = tag.u16(2)
        cursor = cursor.skip(tagged * TAG_SIZE)
    ETHERTYPES.enter(cursor, ethertype)


def inside_tunnel(cursor: FrameGroup) -> None:
    """Start anew at the inner packets; only the tags and the place in the batch are the outer packets'."""
    cursor.finish(PacketStatus.MALFORMED)
    cursor.set(ip_version=0, protocol=0, tos=0, source_offset=0, sport=0, dport=0)
    INNER.enter(cursor, cursor.decoding.inner_ethertype[cursor.frames])


def null(cursor: FrameGroup) -> None:
    """Pass an address family in the byte order of the host that wrote it: being small, it shows which."""
    cursor = cursor.need(FAMILY_SIZE)
    upper, lower = cursor.u16(0), cursor.u16(2)
    swapped = (upper & 0xFF) << 8 | upper >> 8
    family = np.select([upper == 0, lower == 0], [lower, swapped])
    FAMILIES.enter(cursor.skip(FAMILY_SIZE), family)


def loop(cursor: FrameGroup) -> None:
    """Pass an address family in network order."""
    cursor = cursor.need(FAMILY_SIZE)
    family = np.where(cursor.u16(0) == 0, cursor.u16(2), 0)
    FAMILIES.enter(cursor.skip(FAMILY_SIZE), family)


def raw(cursor: FrameGroup) -> None:
    """Tell IPv4 from IPv6 by the version; another one is malformed, as it is behind an ethertype."""
    cursor = cursor.need(1)
    version = cursor.u8(0) >> 4
    ipv4(cursor.keep(version == 4))
    ipv6(cursor.keep(version == 6))


IS_TAG = table_of(16, TAGS)

ETHERTYPES = Switch(
    16,
    {
        ipv4: [IPV4],
        ipv6: [IPV6],
        mpls: MPLS,
        pppoe: [PPPOE_SESSION],
        finish_as(PacketStatus.NOT_IP): [*LENGTHS, *NOT_IP],
    },
)

INNER = Switch(16, {ipv4: [IPV4], ipv6: [IPV6], inner_ethernet: [ETHERNET], mpls: MPLS})

FAMILIES = Switch(16, {ipv4: [AF_INET], ipv6: AF_INET6})

LINK_LAYERS: dict[int, Layer] = {
    LinkType.NULL: null,
    LinkType.ETHERNET: ethernet,
    LinkType.RAW: raw,
    LinkType.LOOP: loop,
    LinkType.LINUX_SLL: linux_sll,
    LinkType.IPV4: ipv4,
    LinkType.IPV6: ipv6,
    LinkType.LINUX_SLL2: linux_sll2,
}
