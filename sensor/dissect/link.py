"""Link layers, VLAN tags, MPLS, PPPoE and ARP. Runs where `dissect` runs."""

from __future__ import annotations

from sensor.dissect.frame_reader import FrameReader, Next, Step, hexadecimal, named
from sensor.dissect.ip import address, ipv4, ipv6
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
    """Return a hardware address in upper case, with dashes between bytes."""
    return value.hex("-").upper()


def ethertype(value: int) -> str:
    """Return an ethertype with its name, or the length of an IEEE 802.3 frame."""
    if value in LENGTHS:
        return f"{value} (length)"
    return f"{value:#06x} ({ETHERTYPE_NAMES[value]})" if value in ETHERTYPE_NAMES else f"{value:#06x}"


def ethernet(reader: FrameReader) -> Next | None:
    """Read both addresses and the ethertype (IEEE 802.3)."""
    reader.begin_layer("Ethernet")
    reader.read_bytes("destination", 6, mac)
    reader.read_bytes("source", 6, mac)
    kind = reader.read_number("type", 2, ethertype)
    if kind in LENGTHS:
        reader.narrow(reader.position + kind)
    return Next("ethertype", kind)


def vlan(reader: FrameReader) -> Next | None:
    """Read one tag (IEEE 802.1Q): tag control information, and the ethertype of what it tags."""
    start = reader.begin_layer("VLAN")
    tci = int.from_bytes(reader.read(2))
    reader.add_field("priority", tci >> 13, start, start + 1)
    reader.add_field("drop eligible", tci >> 12 & 1, start, start + 1)
    reader.add_field("id", tci & 0x0FFF, start, start + 2)
    return Next("ethertype", reader.read_number("type", 2, ethertype))


def mpls(reader: FrameReader) -> Next | None:
    """Read one label (RFC 3032); the packet after the last one is recognized by its IP version."""
    start = reader.begin_layer("MPLS")
    entry = int.from_bytes(reader.read(4))
    reader.add_field("label", entry >> 12, start, start + 3)
    reader.add_field("traffic class", entry >> 9 & 7, start + 2, start + 3)
    reader.add_field("bottom of stack", entry >> 8 & 1, start + 2, start + 3)
    reader.add_field("TTL", entry & 0xFF, start + 3, start + 4)
    return by_version(reader) if entry >> 8 & 1 else Next("ethertype", 0x8847)


def pppoe(reader: FrameReader) -> Next | None:
    """Read a PPPoE session header (RFC 2516) and the PPP protocol behind it."""
    reader.begin_layer("PPPoE")
    reader.read_number("version and type", 1, hex)
    reader.read_number("code", 1)
    reader.read_number("session", 2, hexadecimal)
    reader.narrow(reader.position + 2 + reader.read_number("length", 2))
    protocol = reader.read_number("protocol", 2, _ppp_protocol)
    return {0x0021: IPV4, 0x0057: IPV6}.get(protocol)


def _ppp_protocol(value: int) -> str:
    return f"{value:#06x} ({PPP_NAMES.get(value, 'PPP')})"


def arp(reader: FrameReader) -> None:
    """Read a request or reply (RFC 826)."""
    reader.begin_layer("ARP")
    reader.read_number("hardware type", 2)
    protocol = reader.read_number("protocol type", 2, ethertype)
    hardware_size = reader.read_number("hardware size", 1)
    protocol_size = reader.read_number("protocol size", 1)
    reader.read_number("operation", 2, {1: "request", 2: "reply"})
    show = address if protocol == 0x0800 and protocol_size == 4 else bytes.hex
    for side in ("sender", "target"):
        reader.read_bytes(f"{side} hardware address", hardware_size, mac)
        reader.read_bytes(f"{side} protocol address", protocol_size, show)


def linux_sll(reader: FrameReader) -> Next | None:
    """Read a Linux cooked header (LINKTYPE_LINUX_SLL)."""
    reader.begin_layer("Linux cooked")
    reader.read_number("packet type", 2)
    reader.read_number("ARPHRD type", 2)
    size = reader.read_number("address size", 2)
    reader.read_bytes("address", min(size, 8), mac)
    reader.read_bytes("unused", 8 - min(size, 8))
    return Next("ethertype", reader.read_number("type", 2, ethertype))


def linux_sll2(reader: FrameReader) -> Next | None:
    """Read a Linux cooked header, version 2 (LINKTYPE_LINUX_SLL2)."""
    reader.begin_layer("Linux cooked 2")
    kind = reader.read_number("type", 2, ethertype)
    reader.read_number("reserved", 2)
    reader.read_number("interface index", 4)
    reader.read_number("ARPHRD type", 2)
    reader.read_number("packet type", 1)
    size = reader.read_number("address size", 1)
    reader.read_bytes("address", min(size, 8), mac)
    reader.read_bytes("unused", 8 - min(size, 8))
    return Next("ethertype", kind)


def null(reader: FrameReader) -> Next | None:
    """Read a BSD loopback header: an address family in the byte order of the host that wrote it."""
    start = reader.begin_layer("Loopback")
    value = reader.read(4)
    family = min(int.from_bytes(value), int.from_bytes(value, "little"))
    reader.add_field("family", named(family, FAMILY_NAMES), start, reader.position)
    return {"IPv4": IPV4, "IPv6": IPV6}.get(FAMILY_NAMES.get(family, ""))


def by_version(reader: FrameReader) -> Next | None:
    """Return IPv4 or IPv6 by the first half byte, without reading it; None for any other version."""
    version = reader.frame[reader.position] >> 4 if reader.left else 0
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
    LinkType.RAW_BSD: by_version,
    LinkType.RAW_OPENBSD: by_version,
    LinkType.RAW: by_version,
    LinkType.LOOP: null,
    LinkType.LINUX_SLL: linux_sll,
    LinkType.IPV4: ipv4,
    LinkType.IPV6: ipv6,
    LinkType.LINUX_SLL2: linux_sll2,
}
