"""Link-layer headers of all link types, and VLAN tags. Runs where `decode` runs."""

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


def ethernet(group: FrameGroup) -> None:
    """Decode an Ethernet header: both addresses and the ethertype."""
    group = group.require(ETHERNET_SIZE)
    network(group.skip(ETHERNET_SIZE), group.u16(12))


def inner_ethernet(group: FrameGroup) -> None:
    """Decode an Ethernet header inside a tunnel; its VLAN tags are skipped, not reported."""
    group = group.require(ETHERNET_SIZE)
    network(group.skip(ETHERNET_SIZE), group.u16(12), is_inner=True)


def linux_sll(group: FrameGroup) -> None:
    """Decode a Linux cooked header (https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html)."""
    group = group.require(LINUX_SLL_SIZE)
    network(group.skip(LINUX_SLL_SIZE), group.u16(14))


def linux_sll2(group: FrameGroup) -> None:
    """Decode a Linux cooked header (https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html)."""
    group = group.require(LINUX_SLL2_SIZE)
    network(group.skip(LINUX_SLL2_SIZE), group.u16(0))


def network(group: FrameGroup, ethertype: Integers, *, is_inner: bool = False) -> None:
    """Decode up to two VLAN tags (IEEE 802.1Q), then what the ethertype names; a third tag is UNKNOWN."""
    for depth in range(TAGS_MAX):
        tagged = IS_TAG[ethertype]
        if not np.count_nonzero(tagged):
            break
        whole = ~tagged | (group.position + TAG_SIZE <= group.end)
        group, ethertype, tagged = group.keep(whole), ethertype[whole], tagged[whole]
        tag = group.keep(tagged)
        if not is_inner:
            tag.decoding.packets.vlan_tci[tag.frames, depth] = tag.u16(0)
            tag.set(vlan_count=depth + 1)
        ethertype[tagged] = tag.u16(2)
        group = group.skip(tagged * TAG_SIZE)
    ETHERTYPES.enter(group, ethertype)


def enter_tunnel(group: FrameGroup) -> None:
    """Decode the inner packets; only the VLAN tags of the outer packets are kept."""
    group.finish(PacketStatus.MALFORMED)
    group.set(ip_version=0, protocol=0, tos=0, source_offset=0, sport=0, dport=0)
    INNER.enter(group, group.decoding.inner_ethertype[group.frames])


def null(group: FrameGroup) -> None:
    """Decode an address family in the writer's byte order: the numbers are small, so the order is evident."""
    group = group.require(FAMILY_SIZE)
    upper, lower = group.u16(0), group.u16(2)
    swapped = (upper & 0xFF) << 8 | upper >> 8
    family = np.select([upper == 0, lower == 0], [lower, swapped])
    FAMILIES.enter(group.skip(FAMILY_SIZE), family)


def loop(group: FrameGroup) -> None:
    """Decode an address family in network byte order."""
    group = group.require(FAMILY_SIZE)
    family = np.where(group.u16(0) == 0, group.u16(2), 0)
    FAMILIES.enter(group.skip(FAMILY_SIZE), family)


def raw(group: FrameGroup) -> None:
    """Decode IPv4 or IPv6 by the version; any other version is MALFORMED, as it is behind an ethertype."""
    group = group.require(1)
    version = group.u8(0) >> 4
    ipv4(group.keep(version == 4))
    ipv6(group.keep(version == 6))


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
    LinkType.RAW_BSD: raw,
    LinkType.RAW_OPENBSD: raw,
    LinkType.RAW: raw,
    LinkType.LOOP: loop,
    LinkType.LINUX_SLL: linux_sll,
    LinkType.IPV4: ipv4,
    LinkType.IPV6: ipv6,
    LinkType.LINUX_SLL2: linux_sll2,
}
