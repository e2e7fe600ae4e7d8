"""Builders of frames with tunnels, and a corpus of everything a parser can meet in them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle, product

from frames import (
    ARP,
    ESP,
    FIRST,
    GRE,
    HOP_HEADER,
    ICMP,
    IPIP,
    IPV4,
    IPV4_PACKERS,
    IPV6,
    IPV6_IN_IP,
    IPV6_PACKERS,
    MORE_FRAGMENTS,
    MPLS,
    PAYLOAD,
    SCTP,
    TCP,
    UDP,
    Named,
    Packer,
    ethernet,
    extended,
    icmp,
    ipv4,
    ipv6,
    tcp,
    udp,
)

PPPOE, ETHERNET, VXLAN_PORT, GENEVE_PORT = 0x8864, 0x6558, 4789, 6081
PLAIN_LABEL, CONTROLLED_LABEL = 200, 300
"""Labels of pseudowires without and with a control word, which tshark needs as settings."""

Tunnel = Callable[[int, bytes], tuple[int, bytes]]
"""Puts a packet of an ethertype into another packet; returns that one's ethertype and bytes."""
Builder = Callable[[int, bytes], bytes]
"""Builds a tunnel header and its content from an ethertype and a packet."""


def gre(ethertype: int, packet: bytes, flags: int = 0) -> bytes:
    """Build a GRE header with the fields that the flags name (RFC 2890), and a packet."""
    fields = sum(bool(flags & flag) for flag in (0x8000, 0x2000, 0x1000))
    return struct.pack("!HH", flags, ethertype) + b"\0\1\2\3" * fields + packet


def vxlan(packet: bytes, flags: int = 0x08, reserved: int = 0) -> bytes:
    """Build a VXLAN header of network 5001, and a packet."""
    return struct.pack("!II", flags << 24, 5001 << 8 | reserved) + packet


def geneve(ethertype: int, packet: bytes, *, options: bytes = b"", version: int = 0) -> bytes:
    """Build a GENEVE header, and a packet; ``options`` are a whole number of words."""
    first = version << 6 | len(options) // 4
    return struct.pack("!BBHI", first, 0, ethertype, 5001 << 8) + options + packet


def mpls(packet: bytes, labels: int = 1, *, last: int = 100, bottom: bool = True) -> bytes:
    """Put labels up to ``last`` in front of a packet; without ``bottom`` none is marked as the last."""
    stack = [(last - number) << 12 | 64 for number in reversed(range(labels))]
    stack[-1] |= bottom << 8
    return struct.pack(f"!{labels}I", *stack) + packet


def pppoe(
    protocol: int, packet: bytes, *, first: int = 0x11, code: int = 0, length: int | None = None
) -> bytes:
    """Build a PPPoE header, and a packet; ``protocol`` is PPP's and ``length`` counts from it on."""
    length = 2 + len(packet) if length is None else length
    return struct.pack("!BBHHH", first, code, 7, length, protocol) + packet


def _in_ip(protocol: int, build: Builder, pack: Packer = ipv4) -> Tunnel:
    outside = IPV6 if pack is ipv6 else IPV4
    return lambda ethertype, packet: (outside, pack(protocol, build(ethertype, packet)))


def _in_udp(port: int, build: Builder, pack: Packer = ipv4) -> Tunnel:
    return _in_ip(UDP, lambda ethertype, packet: udp(build(ethertype, packet), sport=55555, dport=port), pack)


def _on_link(ethertype: int, build: Builder) -> Tunnel:
    return lambda inner, packet: (ethertype, build(inner, packet))


def _ip_in_ip(pack: Packer) -> Tunnel:
    """Return a tunnel that carries IPv4 or IPv6 by the packet's ethertype; other packets go as IPv4."""
    outside = IPV6 if pack is ipv6 else IPV4
    return lambda inner, packet: (outside, pack(IPV6_IN_IP if inner == IPV6 else IPIP, packet))


def _ethernet_in(build: Callable[[bytes], bytes], *tags: int, padding: bytes = b"") -> Builder:
    return lambda ethertype, packet: build(ethernet(ethertype, packet, tags, padding=padding))


def _packet_in(build: Callable[[bytes], bytes]) -> Builder:
    return lambda _, packet: build(packet)


def _ppp(ethertype: int, packet: bytes) -> bytes:
    return pppoe({IPV4: 0x21, IPV6: 0x57}.get(ethertype, ethertype), packet)


def _ipv4_ppp(**fields: int) -> Builder:
    return lambda _, packet: pppoe(**{"protocol": 0x21, **fields}, packet=packet)


FIRST_FRAGMENT: Packer = partial(ipv4, fragment=MORE_FRAGMENTS)

TUNNELS: dict[str, Tunnel] = {
    "ip in ipv4": _ip_in_ip(ipv4),
    "ip in ipv6": _ip_in_ip(ipv6),
    "gre": _in_ip(GRE, gre),
    "gre over ipv6": _in_ip(GRE, gre, ipv6),
    "gre checksum": _in_ip(GRE, partial(gre, flags=0x8000)),
    "gre all fields": _in_ip(GRE, partial(gre, flags=0xB000)),
    "gre ethernet": _in_ip(GRE, _ethernet_in(partial(gre, ETHERNET, flags=0x2000))),
    "vxlan": _in_udp(VXLAN_PORT, _ethernet_in(vxlan)),
    "vxlan over ipv6": _in_udp(VXLAN_PORT, _ethernet_in(vxlan), ipv6),
    "vxlan tagged": _in_udp(VXLAN_PORT, _ethernet_in(vxlan, 0x88A8, 0x8100)),
    "geneve": _in_udp(GENEVE_PORT, geneve),
    "geneve ethernet": _in_udp(GENEVE_PORT, _ethernet_in(partial(geneve, ETHERNET))),
    "geneve options": _in_udp(GENEVE_PORT, partial(geneve, options=b"\1\2\x80\1" + bytes(4))),
    "mpls": _on_link(MPLS, _packet_in(mpls)),
    "mpls 3 labels": _on_link(MPLS, _packet_in(partial(mpls, labels=3))),
    "mpls ethernet": _on_link(MPLS, _ethernet_in(partial(mpls, labels=2, last=PLAIN_LABEL))),
    "mpls control word": _on_link(
        MPLS, _ethernet_in(lambda frame: mpls(bytes(4) + frame, last=CONTROLLED_LABEL))
    ),
    "pppoe": _on_link(PPPOE, _ppp),
}
"""Well-formed tunnels."""

ODD_TUNNELS: dict[str, Tunnel] = {
    **{
        f"gre flags {flags:04x}": _in_ip(GRE, partial(gre, flags=flags))
        for flags in (0x4000, 0x0800, 0x0400, 0x0008, 0x0001, 0x0004, 0x2001, 0x3081)
    },
    "gre mpls": _in_ip(GRE, _packet_in(lambda packet: gre(MPLS, mpls(packet)))),
    "gre unknown": _in_ip(GRE, _packet_in(partial(gre, 0x880B))),
    "gre first fragment": _in_ip(GRE, gre, FIRST_FRAGMENT),
    **{
        f"vxlan flags {flags:02x}": _in_udp(
            VXLAN_PORT, _ethernet_in(partial(vxlan, flags=flags, reserved=0xFF))
        )
        for flags in (0x00, 0x08, 0x0C, 0x48, 0x80, 0x88, 0xFF)
    },
    "vxlan 3 tags": _in_udp(VXLAN_PORT, _ethernet_in(vxlan, 0x8100, 0x8100, 0x8100)),
    "vxlan padding": _in_udp(VXLAN_PORT, _ethernet_in(vxlan, padding=bytes(9))),
    "vxlan first fragment": _in_udp(VXLAN_PORT, _ethernet_in(vxlan), FIRST_FRAGMENT),
    "geneve version 1": _in_udp(GENEVE_PORT, partial(geneve, version=1)),
    "geneve unknown": _in_udp(GENEVE_PORT, _packet_in(partial(geneve, 0x880B))),
    "geneve most options": _in_udp(GENEVE_PORT, partial(geneve, options=bytes(252))),
    "mpls 8 labels": _on_link(MPLS, _packet_in(partial(mpls, labels=8))),
    "mpls 9 labels": _on_link(MPLS, _packet_in(partial(mpls, labels=9))),
    "mpls without bottom": _on_link(MPLS, _packet_in(partial(mpls, labels=2, bottom=False))),
    "mpls multicast": _on_link(0x8848, _packet_in(mpls)),
    "mpls channel": _on_link(MPLS, _ethernet_in(lambda frame: mpls(b"\x10\0\0\7" + frame))),
    "mpls long control word": _on_link(MPLS, _ethernet_in(lambda frame: mpls(b"\0\x3f\1\2" + frame))),
    "mpls neither": _on_link(MPLS, _packet_in(lambda packet: mpls(b"\x20" * 20 + packet))),
    "mpls neither, zeroes": _on_link(MPLS, _packet_in(lambda packet: mpls(bytes(20) + packet))),
    "mpls tagged ethernet": _on_link(MPLS, _ethernet_in(lambda frame: mpls(b"\xa2" + frame[1:]), 0x8100)),
    "pppoe lcp": _on_link(PPPOE, _ipv4_ppp(protocol=0xC021)),
    "pppoe unknown": _on_link(PPPOE, _ipv4_ppp(protocol=0x0031)),
    "pppoe version 2": _on_link(PPPOE, _ipv4_ppp(first=0x21)),
    "pppoe discovery": _on_link(PPPOE, _ipv4_ppp(code=0x09)),
    **{
        f"pppoe length {length}": _on_link(PPPOE, _ipv4_ppp(length=length))
        for length in (0, 1, 2, 30, 0xFFFF)
    },
}

INNER_PACKETS: list[tuple[str, int, bytes]] = [
    (
        "ipv4 tcp",
        IPV4,
        ipv4(TCP, tcp(PAYLOAD, sport=40001), source="10.1.0.1", destination="10.2.0.2", tos=0xB8),
    ),
    ("ipv6 udp", IPV6, ipv6(UDP, udp(PAYLOAD, sport=40001), source="fd00::1", destination="fd00::2")),
    ("ipv4 icmp", IPV4, ipv4(ICMP, icmp(PAYLOAD))),
    ("ipv4 tcp empty", IPV4, ipv4(TCP, tcp())),
    ("ipv4 length 0", IPV4, ipv4(UDP, udp(PAYLOAD), total_length=0)),
    ("ipv4 length large", IPV4, ipv4(TCP, tcp(PAYLOAD), total_length=57)),
    ("ipv4 last fragment", IPV4, ipv4(TCP, tcp(PAYLOAD), fragment=1)),
    ("ipv4 first fragment", IPV4, ipv4(UDP, udp(PAYLOAD, length=99), fragment=MORE_FRAGMENTS)),
    ("ipv6 chain", IPV6, ipv6(*extended([HOP_HEADER, FIRST], TCP, tcp(PAYLOAD)))),
    ("esp", IPV4, ipv4(ESP, struct.pack("!II", 1, 2) + PAYLOAD)),
    ("arp", ARP, struct.pack("!HHBBH", 1, IPV4, 6, 4, 1) + bytes(20)),
    ("garbage", IPV4, b"\xff" * 40),
    ("nothing", IPV4, b""),
]

OVER_IP = [
    ("vxlan", UDP, udp(vxlan(ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD)))), dport=VXLAN_PORT)),
    ("vxlan empty", UDP, udp(dport=VXLAN_PORT)),
    ("vxlan cut", UDP, udp(vxlan(b"")[:7], dport=VXLAN_PORT)),
    ("vxlan length 0", UDP, udp(vxlan(ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD)))), dport=VXLAN_PORT, length=0)),
    ("vxlan length 1", UDP, udp(vxlan(ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD)))), dport=VXLAN_PORT, length=1)),
    (
        "vxlan length small",
        UDP,
        udp(vxlan(ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD)))), dport=VXLAN_PORT, length=80),
    ),
    ("from the port of vxlan", UDP, udp(vxlan(ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD)))), sport=VXLAN_PORT)),
    ("geneve", UDP, udp(geneve(IPV6, ipv6(TCP, tcp(PAYLOAD))), dport=GENEVE_PORT)),
    ("geneve empty", UDP, udp(dport=GENEVE_PORT)),
    ("tcp to the port of vxlan", TCP, tcp(vxlan(ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD)))), dport=VXLAN_PORT)),
    ("sctp to the port of vxlan", SCTP, struct.pack("!HHII", 2905, VXLAN_PORT, 1, 0) + PAYLOAD),
]


def tunnelled(names: Iterable[str], ethertype: int, packet: bytes) -> tuple[int, bytes]:
    """Put a packet into the named tunnels, outermost first."""
    for name in reversed(list(names)):
        ethertype, packet = (TUNNELS | ODD_TUNNELS)[name](ethertype, packet)
    return ethertype, packet


def tunnel_corpus() -> list[Named]:
    """Return named Ethernet frames with tunnels of all kinds, valid and invalid.

    Every tunnel is combined with every inner packet, and every two well-formed ones are nested; some are
    three deep. Tunnels over UDP are combined with every way to build an IP packet.
    """
    everything = TUNNELS | ODD_TUNNELS
    nested = [
        *(((name,), inner) for name, inner in product(everything, INNER_PACKETS)),
        *((names, INNER_PACKETS[0]) for names in product(TUNNELS, TUNNELS)),
        *((names, INNER_PACKETS[1]) for names in zip(cycle(TUNNELS), ODD_TUNNELS, strict=False)),
        *((("gre", "vxlan", name), INNER_PACKETS[0]) for name in TUNNELS),
        *(((name, "mpls", "geneve"), INNER_PACKETS[1]) for name in TUNNELS),
    ]
    frames = [
        (f"{', '.join(names)}, {name}", ethernet(*tunnelled(names, ethertype, packet)))
        for names, (name, ethertype, packet) in nested
    ]
    for name, (inner, ethertype, packet) in product(TUNNELS, INNER_PACKETS[:2]):
        outer = ethernet(*tunnelled([name], ethertype, packet), (0x88A8, 0x8100), padding=bytes(9))
        frames.append((f"88a8+8100 {name}, {inner}, padding", outer))
    for outside, packers in ((IPV4, IPV4_PACKERS), (IPV6, IPV6_PACKERS)):
        for (ip, pack), (name, protocol, transport) in product(packers.items(), OVER_IP):
            frames.append((f"{ip}, {name}", ethernet(outside, pack(protocol, transport))))
    return frames
