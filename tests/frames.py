"""Builders of frames for the tests, and a corpus of everything a parser can meet.

The builders fill in correct lengths; pass another value to build an invalid frame.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from ipaddress import ip_address
from itertools import product

import numpy as np

from sensor.model import FrameBatch, LinkType

Named = tuple[str, bytes]
Packer = Callable[[int, bytes], bytes]
"""Builds an IP packet from a protocol number and the bytes after the IP header."""
Extension = tuple[int, bytes, int]
"""Kind, the bytes after the length field, and the size of the whole header."""

PAYLOAD = b"GET / HTTP/1.1\r\n"
IPV4, IPV6, ARP, MPLS, LLDP = 0x0800, 0x86DD, 0x0806, 0x8847, 0x88CC
ICMP, IGMP, IPIP, TCP, UDP, IPV6_IN_IP, GRE, ESP, AH, ICMPV6 = 1, 2, 4, 6, 17, 41, 47, 50, 51, 58
HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION, SCTP = 0, 43, 44, 59, 60, 132
MORE_FRAGMENTS = 0x2000


def batch_of(
    frames: Iterable[bytes],
    *,
    linktype: int = LinkType.ETHERNET,
    snaplen: int = 1 << 18,
    gap: bytes = b"",
) -> FrameBatch:
    """Return a batch of frames, cut to ``snaplen``, with the bytes ``gap`` between them."""
    frames = list(frames)
    wirelen = np.array([len(frame) for frame in frames], np.int64)
    caplen = np.minimum(wirelen, snaplen)
    buffer = gap + b"".join(frame[:snaplen] + gap for frame in frames)
    start = np.cumsum(caplen + len(gap)) - caplen
    zeros = np.zeros(len(frames), np.int64)
    return FrameBatch(memoryview(buffer), start, caplen, wirelen, zeros, zeros, linktype)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def ethernet(ethertype: int, packet: bytes, tags: Iterable[int] = (), *, padding: bytes = b"") -> bytes:
    """Build an Ethernet frame; ``tags`` are ethertypes of VLAN tags, outer first, numbered from 101 on."""
    stack = b"".join(struct.pack("!HH", tag, 0x6000 | number) for number, tag in enumerate(tags, start=101))
    return (
        bytes.fromhex("02000000000a 02000000000b") + stack + struct.pack("!H", ethertype) + packet + padding
    )


def ipv4(
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    fragment: int = 0,
    tos: int = 0,
    version: int = 4,
    ihl: int | None = None,
    total_length: int | None = None,
    source: str = "192.0.2.10",
    destination: str = "198.51.100.20",
) -> bytes:
    """Build an IPv4 packet; ``fragment`` is the 16-bit field of flags and offset."""
    ihl = 5 + len(options) // 4 if ihl is None else ihl
    total_length = 20 + len(options) + len(payload) if total_length is None else total_length
    addresses = ip_address(source).packed + ip_address(destination).packed
    fields = (version << 4 | ihl, tos, total_length, 0x1234, fragment, 64, protocol)
    unchecked = struct.pack("!BBHHHBBH", *fields, 0) + addresses + options
    return struct.pack("!BBHHHBBH", *fields, checksum(unchecked)) + addresses + options + payload


def ipv6(
    next_header: int,
    payload: bytes,
    *,
    traffic_class: int = 0,
    version: int = 6,
    payload_length: int | None = None,
    source: str = "2001:db8::10",
    destination: str = "2001:db8:1::20",
) -> bytes:
    """Build an IPv6 packet; ``payload`` includes the extension headers."""
    payload_length = len(payload) if payload_length is None else payload_length
    first = version << 28 | traffic_class << 20 | 0x12345
    header = struct.pack("!IHBB", first, payload_length, next_header, 64)
    return header + ip_address(source).packed + ip_address(destination).packed + payload


def extension(kind: int, next_header: int, rest: bytes = b"", *, size: int = 8) -> bytes:
    """Build an IPv6 extension header of ``size`` bytes in all; ``rest`` follows its length field."""
    units = size // 4 - 2 if kind == AH else size // 8 - 1
    return struct.pack("!BB", next_header, 0 if kind == FRAGMENT else units) + rest.ljust(size - 2, b"\0")


def extended(headers: Iterable[Extension], protocol: int, payload: bytes) -> tuple[int, bytes]:
    """Return the next header and the payload for `ipv6`, with extension headers in front of a transport."""
    for kind, rest, size in reversed(list(headers)):
        protocol, payload = kind, extension(kind, protocol, rest, size=size) + payload
    return protocol, payload


def tcp(
    payload: bytes = b"",
    *,
    sport: int = 40000,
    dport: int = 80,
    options: bytes = b"",
    doff: int | None = None,
) -> bytes:
    """Build a TCP segment; ``doff`` is the header size in words of four bytes."""
    doff = 5 + len(options) // 4 if doff is None else doff
    header = struct.pack("!HHIIBBHHH", sport, dport, 1000, 2000, doff << 4, 0x18, 512, 0, 0)
    return header + options + payload


def udp(payload: bytes = b"", *, sport: int = 5353, dport: int = 53, length: int | None = None) -> bytes:
    """Build a UDP datagram; ``length`` is the value in the header."""
    return struct.pack("!HHHH", sport, dport, 8 + len(payload) if length is None else length, 0) + payload


def icmp(payload: bytes = b"", *, kind: int = 8) -> bytes:
    """Build an echo request, for ICMPv6 with ``kind`` 128."""
    return struct.pack("!BBHHH", kind, 0, 0, 7, 1) + payload


def fragment_header(offset: int, *, more: bool) -> Extension:
    """Build the IPv6 fragment header; ``offset`` counts in units of eight bytes."""
    return FRAGMENT, struct.pack("!HI", offset << 3 | more, 7), 8


TRANSPORTS = [
    ("tcp", TCP, tcp(PAYLOAD)),
    ("tcp options", TCP, tcp(PAYLOAD, options=b"\1\1\x08\x0a" + bytes(8))),
    ("tcp most options", TCP, tcp(PAYLOAD, options=b"\1" * 40)),
    ("tcp empty", TCP, tcp()),
    ("tcp options empty", TCP, tcp(options=b"\1\1\1\0")),
    ("tcp doff 0", TCP, tcp(PAYLOAD, doff=0)),
    ("tcp doff 4", TCP, tcp(PAYLOAD, doff=4)),
    ("tcp doff over payload", TCP, tcp(PAYLOAD, doff=9)),
    ("tcp doff past end", TCP, tcp(PAYLOAD, doff=15)),
    ("tcp cut", TCP, tcp()[:19]),
    ("udp", UDP, udp(PAYLOAD)),
    ("udp empty", UDP, udp()),
    ("udp length 0", UDP, udp(PAYLOAD, length=0)),
    ("udp length 1", UDP, udp(PAYLOAD, length=1)),
    ("udp length 7", UDP, udp(PAYLOAD, length=7)),
    ("udp length 8", UDP, udp(PAYLOAD, length=8)),
    ("udp length small", UDP, udp(PAYLOAD, length=8 + len(PAYLOAD) - 1)),
    ("udp length large", UDP, udp(PAYLOAD, length=8 + len(PAYLOAD) + 1)),
    ("udp length largest", UDP, udp(PAYLOAD, length=0xFFFF)),
    ("udp cut", UDP, udp()[:7]),
    ("icmp", ICMP, icmp(PAYLOAD)),
    ("icmp empty", ICMP, icmp()),
    ("icmp cut", ICMP, icmp()[:7]),
    ("icmpv6", ICMPV6, icmp(PAYLOAD, kind=128)),
    ("icmpv6 empty", ICMPV6, icmp(kind=128)),
    ("icmpv6 cut", ICMPV6, icmp(kind=128)[:7]),
    ("sctp", SCTP, struct.pack("!HHII", 2905, 2905, 1, 0) + PAYLOAD),
    ("gre", GRE, struct.pack("!HH", 0, IPV4) + ipv4(UDP, udp(PAYLOAD))),
    ("ipip", IPIP, ipv4(TCP, tcp(PAYLOAD))),
    ("ipv6 in ip", IPV6_IN_IP, ipv6(TCP, tcp(PAYLOAD))),
    ("esp", ESP, struct.pack("!II", 1, 2) + PAYLOAD),
    ("ah", AH, extension(AH, TCP, size=24) + tcp(PAYLOAD)),
    ("igmp", IGMP, b"\x16\0\0\0\xe0\0\0\x16"),
    *((f"protocol {number}", number, PAYLOAD) for number in (HOP, NO_NEXT, 88, 89, 103, 112, 253, 255)),
    ("nothing", TCP, b""),
]

HOP_HEADER: Extension = (HOP, b"\1\4", 8)
ROUTING_HEADER: Extension = (ROUTING, b"\4\0", 24)
DESTINATION_HEADER: Extension = (DESTINATION, b"\1\4", 16)
AH_HEADER: Extension = (AH, b"\0\0\0\0\0\1", 24)
FIRST, MIDDLE, LAST = (
    fragment_header(offset, more=more) for offset, more in [(0, True), (0x1000, True), (1, False)]
)
ATOMIC = fragment_header(0, more=False)


def _ipv4_of_length(change: int) -> Packer:
    return lambda protocol, payload: ipv4(protocol, payload, total_length=20 + len(payload) + change)


def _ipv6_of_length(change: int) -> Packer:
    return lambda protocol, payload: ipv6(protocol, payload, payload_length=max(0, len(payload) + change))


def _ipv6_behind(*headers: Extension) -> Packer:
    return lambda protocol, payload: ipv6(*extended(headers, protocol, payload))


IPV4_PACKERS: dict[str, Packer] = {
    "ipv4": ipv4,
    "ipv4 tos": partial(ipv4, tos=0xB8),
    "ipv4 options": partial(ipv4, options=b"\x94\4\0\0"),
    "ipv4 most options": partial(ipv4, options=b"\1" * 40),
    "ipv4 whole": partial(ipv4, fragment=0x4000),
    "ipv4 first fragment": partial(ipv4, fragment=MORE_FRAGMENTS),
    "ipv4 middle fragment": partial(ipv4, fragment=MORE_FRAGMENTS | 0x1000),
    "ipv4 last fragment": partial(ipv4, fragment=0x1FFF),
    "ipv4 last fragment options": partial(ipv4, fragment=1, options=b"\1\1\1\0"),
    "ipv4 evil bit": partial(ipv4, fragment=0x8000),
    "ipv4 length 0": partial(ipv4, total_length=0),
    "ipv4 length 0 options": partial(ipv4, total_length=0, options=b"\1\1\1\0"),
    "ipv4 length 19": partial(ipv4, total_length=19),
    "ipv4 length 20": partial(ipv4, total_length=20),
    "ipv4 length in options": partial(ipv4, total_length=22, options=b"\1\1\1\0"),
    "ipv4 length small": _ipv4_of_length(-1),
    "ipv4 length large": _ipv4_of_length(+1),
    "ipv4 length largest": partial(ipv4, total_length=0xFFFF),
    "ipv4 version 0": partial(ipv4, version=0),
    "ipv4 version 5": partial(ipv4, version=5),
    "ipv4 version 6": partial(ipv4, version=6),
    "ipv4 ihl 0": partial(ipv4, ihl=0),
    "ipv4 ihl 4": partial(ipv4, ihl=4),
    "ipv4 ihl over payload": partial(ipv4, ihl=7),
    "ipv4 ihl 15": partial(ipv4, ihl=15),
}

IPV6_PACKERS: dict[str, Packer] = {
    "ipv6": ipv6,
    "ipv6 class": partial(ipv6, traffic_class=0xB8),
    "ipv6 length 0": partial(ipv6, payload_length=0),
    "ipv6 length 1": partial(ipv6, payload_length=1),
    "ipv6 length small": _ipv6_of_length(-1),
    "ipv6 length large": _ipv6_of_length(+1),
    "ipv6 length largest": partial(ipv6, payload_length=0xFFFF),
    "ipv6 version 4": partial(ipv6, version=4),
    "ipv6 version 15": partial(ipv6, version=15),
    **{
        f"ipv6 extension {kind} of {size}": _ipv6_behind((kind, b"", size))
        for kind in (HOP, ROUTING, DESTINATION, 135, 139, 140, 253)
        for size in (8, 24)
    },
    "ipv6 ah": _ipv6_behind(AH_HEADER),
    "ipv6 small ah": _ipv6_behind((AH, b"", 8)),
    "ipv6 atomic fragment": _ipv6_behind(ATOMIC),
    "ipv6 first fragment": _ipv6_behind(FIRST),
    "ipv6 middle fragment": _ipv6_behind(MIDDLE),
    "ipv6 last fragment": _ipv6_behind(LAST),
    "ipv6 fragment reserved bits": _ipv6_behind((FRAGMENT, b"\0\6", 8)),
    "ipv6 first fragment, atomic": _ipv6_behind(FIRST, ATOMIC),
    "ipv6 chain": _ipv6_behind(HOP_HEADER, DESTINATION_HEADER, ROUTING_HEADER, AH_HEADER),
    "ipv6 chain, first fragment": _ipv6_behind(HOP_HEADER, FIRST, DESTINATION_HEADER),
    "ipv6 chain, last fragment": _ipv6_behind(HOP_HEADER, ROUTING_HEADER, LAST, DESTINATION_HEADER),
    "ipv6 8 extensions": _ipv6_behind(*[DESTINATION_HEADER] * 7, ATOMIC),
    "ipv6 8 extensions, fragment": _ipv6_behind(*[DESTINATION_HEADER] * 7, LAST),
    "ipv6 9 extensions": _ipv6_behind(*[HOP_HEADER] * 9),
    "ipv6 9 extensions, fragment": _ipv6_behind(*[HOP_HEADER] * 8, LAST),
    "ipv6 40 extensions": _ipv6_behind(*[HOP_HEADER] * 40),
    "ipv6 extension past end": lambda _, payload: ipv6(HOP, b"\6\xff" + payload),
    "ipv6 no next header": lambda _, payload: ipv6(NO_NEXT, payload),
    "ipv6 extension, no next header": lambda _, payload: ipv6(*extended([HOP_HEADER], NO_NEXT, payload)),
}

TAG_STACKS: list[tuple[int, ...]] = [
    (0x8100,),
    (0x88A8,),
    (0x9100,),
    (0x8100, 0x8100),
    (0x88A8, 0x8100),
    (0x9100, 0x88A8),
    (0x8100, 0x8100, 0x8100),
    (0x88A8, 0x9100, 0x8100),
]

OTHER_ETHERTYPES = [
    ("arp", ARP, struct.pack("!HHBBH", 1, IPV4, 6, 4, 1) + bytes(20)),
    ("lldp", LLDP, b"\x02\x07\x04" + bytes(9)),
    ("mpls", MPLS, b"\0\1\x01\x40" + ipv4(TCP, tcp(PAYLOAD))),
    ("802.3", 0x0026, b"\x42\x42\x03" + bytes(35)),
    ("802.3 longest", 0x05FF, b"\xaa\xaa\x03\0\0\0\x08\0" + ipv4(TCP, tcp(PAYLOAD))),
    *(
        (f"ethertype {ethertype:04x}", ethertype, PAYLOAD)
        for ethertype in (
            0x0000,
            0x0600,
            0x8035,
            0x8809,
            0x8863,
            0x8864,
            0x888E,
            0x88E5,
            0x88F7,
            0x8902,
            0xFFFF,
        )
    ),
]


FOR_EVERY_TRANSPORT = {
    *("ipv4", "ipv4 options", "ipv4 first fragment", "ipv4 middle fragment", "ipv4 length 0"),
    *("ipv6", "ipv6 chain", "ipv6 first fragment", "ipv6 last fragment", "ipv6 length 0"),
}
FOR_EVERY_PACKER = {"tcp", "tcp empty", "udp", "udp length large", "nothing"}


def corpus() -> list[Named]:
    """Return named Ethernet frames of all kinds and combinations, valid and invalid.

    Every way to build an IP packet is combined with the main transports, and the main ways with every
    transport; every stack of tags with every transport, every way to build, and every other ethertype.
    """
    packers = [(IPV4, *packer) for packer in IPV4_PACKERS.items()]
    packers += [(IPV6, *packer) for packer in IPV6_PACKERS.items()]
    untagged, tagged = list(OTHER_ETHERTYPES), list(OTHER_ETHERTYPES)
    for (ethertype, ip, pack), (transport, protocol, payload) in product(packers, TRANSPORTS):
        packet = f"{ip}, {transport}", ethertype, pack(protocol, payload)
        if ip in FOR_EVERY_TRANSPORT or transport in FOR_EVERY_PACKER:
            untagged.append(packet)
        if ip in ("ipv4", "ipv6") or transport == "tcp":
            tagged.append(packet)
    largest = ipv6(*extended([(DESTINATION, b"", 2048), (AH, b"", 1028)], UDP, udp(PAYLOAD)))
    return [
        *((name, ethernet(ethertype, packet)) for name, ethertype, packet in untagged),
        ("ipv6 largest extensions, udp", ethernet(IPV6, largest)),
        *(
            (f"{name}, padding", ethernet(ethertype, packet, padding=bytes(max(1, 46 - len(packet)))))
            for name, ethertype, packet in tagged
        ),
        *(
            (f"{'+'.join(f'{tag:04x}' for tag in tags)} {name}", ethernet(ethertype, packet, tags))
            for tags, (name, ethertype, packet) in product(TAG_STACKS, tagged)
        ),
    ]


def truncations(frames: Iterable[Named], smallest: int = 14) -> Iterator[Named]:
    """Yield each frame cut at every byte from ``smallest`` on, the least that a NIC delivers."""
    for name, frame in frames:
        for size in range(smallest, len(frame)):
            yield f"{name}, {size} bytes", frame[:size]
