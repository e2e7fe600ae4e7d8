"""Link layers, VLAN tags, MPLS, PPPoE, ARP, and what an ethertype names; runs wherever `dissect` does."""

from __future__ import annotations

from sensor.dissect.ip import address, ipv4, ipv6
from sensor.dissect.layer import FrameReader, Next, Step, hexadecimal, named
from sensor.model import LinkType

ETHERTYPE_NAMES = {
    0x0800: "IPv4",
    0x0806: "ARP",
    0x6558: "Ethernet",
    0x8100: "802.1Q VLAN",
    0x8847: "MPLS",
    0x8848: "MPLS multicast",
    0x8864: "PPPoE session",
    0x86DD: "IPv6",
    0x88A8: "802.1ad VLAN",
    0x88CC: "LLDP",
    0x9100: "VLAN",
}
LENGTHS = range(0x0600)
IPV4, IPV6 = Next("ethertype", 0x0800), Next("ethertype", 0x86DD)
PPP_NAMES = {0x0021: "IPv4", 0x0057: "IPv6", 0xC021: "LCP"}
FAMILY_NAMES = {2: "IPv4", 10: "IPv6", 24: "IPv6", 28: "IPv6", 30: "IPv6"}


def mac(value: bytes) -> str:
    """Return a hardware address, upper case with dashes between its bytes."""
    return value.hex("-").upper()


def ethertype(value: int) -> str:
    """Return an ethertype with its name, or the length that stands in its place (IEEE 802.3)."""
    if value in LENGTHS:
        return f"{value} (length)"
    return f"{value:#06x} ({ETHERTYPE_NAMES[value]})" if value in ETHERTYPE_NAMES else f"{value:#06x}"


def ethernet(cursor: FrameReader) -> Next | None:
    """Read both addresses and the ethertype (IEEE 802.3)."""
    cursor.begin("Ethernet")
    cursor.octets("destination", 6, mac)
    cursor.octets("source", 6, mac)
    kind = cursor.number("type", 2, ethertype)
    if kind in LENGTHS:
        cursor.narrow(cursor.position + kind)
    return Next("ethertype", kind)


def vlan(cursor: FrameReader) -> Next | None:
    """Read one tag (IEEE 802.1Q): tag control information, and the ethertype of what it tags."""
    start = cursor.begin("VLAN")
    tci = int.from_bytes(cursor.take(2))
    cursor.note("priority", tci >> 13, start, start + 1)
    cursor.note("drop eligible", tci >> 12 & 1, start, start + 1)
    cursor.note("id", tci & 0x0FFF, start, start + 2)
    return Next("ethertype", cursor.number("type", 2, ethertype))


def mpls(cursor: FrameReader) -> Next | None:
    """Read one label (RFC 3032); what is behind the last one tells its version itself."""
    start = cursor.begin("MPLS")
    entry = int.from_bytes(cursor.take(4))
    cursor.note("label", entry >> 12, start, start + 3)
    cursor.note("traffic class", entry >> 9 & 7, start + 2, start + 3)
    cursor.note("bottom of stack", entry >> 8 & 1, start + 2, start + 3)
    cursor.note("TTL", entry & 0xFF, start + 3, start + 4)
    return by_version(cursor) if entry >> 8 & 1 else Next("ethertype", 0x8847)


def pppoe(cursor: FrameReader) -> Next | None:
    """Read a PPPoE session header (RFC 2516) and the PPP protocol behind it."""
    cursor.begin("PPPoE")
    cursor.number("version and type", 1, hex)
    cursor.number("code", 1)
    cursor.number("session", 2, hexadecimal)
    cursor.narrow(cursor.position + 2 + cursor.number("length", 2))
    protocol = cursor.number("protocol", 2, lambda value: f"{value:#06x} ({PPP_NAMES.get(value, 'PPP')})")
    return {0x0021: IPV4, 0x0057: IPV6}.get(protocol)


def arp(cursor: FrameReader) -> None:
    """Read a request or reply (RFC 826)."""
    cursor.begin("ARP")
    cursor.number("hardware type", 2)
    protocol = cursor.number("protocol type", 2, ethertype)
    hardware_size, protocol_size = cursor.number("hardware size", 1), cursor.number("protocol size", 1)
    cursor.number("operation", 2, {1: "request", 2: "reply"})
    show = address if protocol == 0x0800 and protocol_size == 4 else bytes.hex
    for side in ("sender", "target"):
        cursor.octets(f"{side} hardware address", hardware_size, mac)
        cursor.octets(f"{side} protocol address", protocol_size, show)


def linux_sll(cursor: FrameReader) -> Next | None:
    """Read a Linux cooked header (LINKTYPE_LINUX_SLL)."""
    cursor.begin("Linux cooked")
    cursor.number("packet type", 2)
    cursor.number("ARPHRD type", 2)
    size = cursor.number("address size", 2)
    cursor.octets("address", min(size, 8), mac)
    cursor.octets("unused", 8 - min(size, 8))
    return Next("ethertype", cursor.number("type", 2, ethertype))


def linux_sll2(cursor: FrameReader) -> Next | None:
    """Read a Linux cooked header, version 2 (LINKTYPE_LINUX_SLL2)."""
    cursor.begin("Linux cooked 2")
    kind = cursor.number("type", 2, ethertype)
    cursor.number("reserved", 2)
    cursor.number("interface index", 4)
    cursor.number("ARPHRD type", 2)
    cursor.number("packet type", 1)
    size = cursor.number("address size", 1)
    cursor.octets("address", min(size, 8), mac)
    cursor.octets("unused", 8 - min(size, 8))
    return Next("ethertype", kind)


def null(cursor: FrameReader) -> Next | None:
    """Read a BSD loopback header: an address family in the byte order of whoever wrote it."""
    start = cursor.begin("Loopback")
    value = cursor.take(4)
    family = min(int.from_bytes(value), int.from_bytes(value, "little"))
    cursor.note("family", named(family, FAMILY_NAMES), start, cursor.position)
    return {"IPv4": IPV4, "IPv6": IPV6}.get(FAMILY_NAMES.get(family, ""))


def by_version(cursor: FrameReader) -> Next | None:
    """Tell IPv4 from IPv6 by the first half byte, without reading it."""
    version = cursor.frame[cursor.position] >> 4 if cursor.left else 0
    return {4: IPV4, 6: IPV6}.get(version)


ETHERTYPES: dict[int, Step] = {
    0x0800: ipv4,
    0x0806: arp,
    0x6558: ethernet,
    0x8100: vlan,
    0x8847: mpls,
    0x8848: mpls,
    0x8864: pppoe,
    0x86DD: ipv6,
    0x88A8: vlan,
    0x9100: vlan,
}

LINKS: dict[int, Step] = {
    LinkType.NULL: null,
    LinkType.ETHERNET: ethernet,
    LinkType.RAW: by_version,
    LinkType.LOOP: null,
    LinkType.LINUX_SLL: linux_sll,
    LinkType.IPV4: ipv4,
    LinkType.IPV6: ipv6,
    LinkType.LINUX_SLL2: linux_sll2,
}
