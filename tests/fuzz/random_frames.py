"""Random frames: headers of all kinds in any order, well-formed, damaged and cut. Seeded."""

from __future__ import annotations

import random
import struct

from frames import (
    ARP,
    IPV4,
    IPV4_PACKERS,
    IPV6,
    IPV6_PACKERS,
    OTHER_ETHERTYPES,
    TRANSPORTS,
    ethernet,
    extension,
    ipv4,
    ipv6,
    tcp,
    udp,
)
from tunnels import ODD_TUNNELS, OVER_IP, TUNNELS, tunnelled

from sensor.model import LinkType

LINK_HEADERS = {
    LinkType.NULL: (b"\2\0\0\0", b"\0\0\0\2", b"\x1e\0\0\0", b"\0\0\0\x0a", b"\7\0\0\0"),
    LinkType.LOOP: (b"\0\0\0\2", b"\0\0\0\x1c", b"\2\0\0\0"),
    LinkType.RAW: (b"",),
    LinkType.RAW_BSD: (b"",),
    LinkType.RAW_OPENBSD: (b"",),
    LinkType.IPV4: (b"",),
    LinkType.IPV6: (b"",),
    LinkType.LINUX_SLL: (bytes(14) + b"\x08\0", bytes(14) + b"\x86\xdd", bytes(14) + b"\x81\0\0\7\x08\0"),
    LinkType.LINUX_SLL2: (b"\x08\0" + bytes(18), b"\x81\0" + bytes(18) + b"\0\7\x86\xdd"),
}
"""Headers of other link layers, which stand in the place of an Ethernet header."""

_TAGS = (0x8100, 0x88A8, 0x9100)
_EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)
_PORTS = (0, 53, 80, 443, 2152, 4789, 6081, 65535)
_VALUES = (0, 1, 4, 5, 6, 17, 41, 43, 44, 47, 51, 60, 0x40, 0x45, 0x46, 0x4F, 0x60, 0x7F, 0x80, 0xFF)
"""Bytes that mean something in some header."""


def random_frame(rng: random.Random) -> bytes:
    """Return an Ethernet frame, in three of four cases damaged or cut."""
    ethertype, packet = _random_packet(rng)
    for name in rng.choices([*TUNNELS, *ODD_TUNNELS], k=rng.choice((0, 0, 1, 1, 2, 3))):
        ethertype, packet = tunnelled([name], ethertype, packet)
    tags = rng.choices(_TAGS, k=rng.choice((0, 0, 0, 1, 2, 3)))
    frame = ethernet(ethertype, packet, tags, padding=bytes(rng.choice((0, 0, 3, 46))))
    return _damaged(frame, rng) if rng.random() < 0.75 else frame


def random_frame_on_link(rng: random.Random) -> tuple[LinkType, bytes]:
    """Return a frame of another link type, and that link type."""
    linktype = rng.choice([*LINK_HEADERS])
    return linktype, rng.choice(LINK_HEADERS[linktype]) + random_frame(rng)[14:]


def _random_packet(rng: random.Random) -> tuple[int, bytes]:
    if rng.random() < 0.05:
        _, ethertype, packet = rng.choice(OTHER_ETHERTYPES)
        return ethertype, packet
    protocol, transport = _random_transport(rng)
    if rng.random() < 0.25:
        return IPV6, ipv6(*_behind_extensions(protocol, transport, rng))
    version, packers = rng.choice(((IPV4, IPV4_PACKERS), (IPV6, IPV6_PACKERS)))
    pack = (ipv4 if version == IPV4 else ipv6) if rng.random() < 0.4 else rng.choice([*packers.values()])
    return version, pack(protocol, transport)


def _random_transport(rng: random.Random) -> tuple[int, bytes]:
    ports = {"sport": rng.choice(_PORTS), "dport": rng.choice(_PORTS)}
    payload = rng.randbytes(rng.choice((0, 1, 7, 8, 9, 20, 200)))
    match rng.randrange(4):
        case 0:
            return 6, tcp(payload, options=bytes(4 * rng.randrange(11)), **ports)
        case 1:
            return 17, udp(payload, **ports)
        case _:
            _, protocol, transport = rng.choice([*TRANSPORTS, *OVER_IP])
            return protocol, transport


def _behind_extensions(protocol: int, transport: bytes, rng: random.Random) -> tuple[int, bytes]:
    """Put up to ten IPv6 extension headers in front of a transport."""
    for _ in range(rng.choice((1, 2, 3, 7, 8, 9, 10))):
        kind = rng.choice(_EXTENSIONS)
        rest = struct.pack("!HI", rng.choice((0, 1, 6, 8, 0xFFF8)), 7) if kind == 44 else b""
        size = 8 if kind == 44 else rng.choice((8, 8, 16, 24))
        protocol, transport = kind, extension(kind, protocol, rest, size=size) + transport
    return protocol, transport


def _damaged(frame: bytes, rng: random.Random) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(min(len(data), 150))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8)))
            case 2 if len(data) > 20:
                del data[at : at + rng.choice((1, 2, 4))]
            case 3:
                data[at : at + 2] = struct.pack("!H", rng.choice((IPV4, IPV6, ARP, 0x8847, 0x8864, *_TAGS)))
            case _:
                data[at] = rng.choice((*_VALUES, rng.randrange(256)))
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.25 else data)
