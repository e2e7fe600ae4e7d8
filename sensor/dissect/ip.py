"""IPv4, IPv6 and its extension headers; runs wherever `dissect` does."""

from __future__ import annotations

import ipaddress

from sensor.dissect.layer import FrameReader, Next, Step, flags, hexadecimal
from sensor.protocols import (
    AH,
    DESTINATION,
    FRAGMENT,
    HEADER_NAMES,
    HIP,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    MOBILITY,
    ROUTING,
    SHIM6,
)

EXTENSIONS = {
    HOP_BY_HOP: "IPv6 hop-by-hop options",
    ROUTING: "IPv6 routing",
    FRAGMENT: "IPv6 fragment",
    AH: "AH",
    DESTINATION: "IPv6 destination options",
    MOBILITY: "IPv6 mobility",
    HIP: "IPv6 HIP",
    SHIM6: "IPv6 shim6",
}
_IPV4_SIZE_MIN, _IPV6_SIZE = 20, 40
_FRAGMENT_FLAGS = {4: "reserved", 2: "don't fragment", 1: "more fragments"}


def address(value: bytes) -> str:
    """Return an IPv4 or IPv6 address as text (RFC 5952)."""
    return str(ipaddress.ip_address(value))


def ipv4(cursor: FrameReader) -> Next | None:
    """Read a header with its options (RFC 791)."""
    start = cursor.begin("IPv4")
    first = cursor.take(1)[0]
    size = (first & 0x0F) * 4
    cursor.note("version", first >> 4, start, start + 1)
    cursor.note("header length", f"{size} bytes", start, start + 1)
    cursor.number("type of service", 1, hex)
    length = cursor.number("total length", 2)
    cursor.number("identification", 2, hexadecimal)
    fragment = int.from_bytes(cursor.take(2))
    cursor.note("flags", flags(fragment >> 13, _FRAGMENT_FLAGS), start + 6, start + 7)
    cursor.note("fragment offset", (fragment & 0x1FFF) * 8, start + 6, start + 8)
    cursor.number("TTL", 1)
    protocol = cursor.number("protocol", 1, HEADER_NAMES)
    cursor.number("checksum", 2, hexadecimal)
    cursor.octets("source", 4, address)
    cursor.octets("destination", 4, address)
    if length:  # segmentation offload writes 0
        cursor.narrow(start + length)
    if size < _IPV4_SIZE_MIN:
        return None
    cursor.octets("options", size - _IPV4_SIZE_MIN)
    return None if fragment & 0x1FFF else Next("protocol", protocol)


def ipv6(cursor: FrameReader) -> Next | None:
    """Read a header (RFC 8200)."""
    start = cursor.begin("IPv6")
    first = int.from_bytes(cursor.take(4))
    cursor.note("version", first >> 28, start, start + 1)
    cursor.note("traffic class", hex(first >> 20 & 0xFF), start, start + 2)
    cursor.note("flow label", f"{first & 0xFFFFF:#07x}", start + 1, start + 4)
    length = cursor.number("payload length", 2)
    protocol = cursor.number("next header", 1, HEADER_NAMES)
    cursor.number("hop limit", 1)
    cursor.octets("source", 16, address)
    cursor.octets("destination", 16, address)
    if length:
        cursor.narrow(start + _IPV6_SIZE + length)
    return Next("protocol", protocol)


def _extension(kind: int) -> Step:
    def step(cursor: FrameReader) -> Next | None:
        """Read an extension header (RFC 8200, section 4; AH: RFC 4302)."""
        start = cursor.begin(EXTENSIONS[kind])
        protocol = cursor.number("next header", 1, HEADER_NAMES)
        if kind == FRAGMENT:
            cursor.number("reserved", 1)
            offset = cursor.number(
                "offset and flags", 2, lambda value: f"{value & 0xFFF8}, more: {value & 1}"
            )
            cursor.number("identification", 4)
            return None if offset & 0xFFF8 else Next("protocol", protocol)
        length = cursor.number("length", 1)
        size = (length + 2) * 4 if kind == AH else (length + 1) * 8
        cursor.octets("content", start + size - cursor.position)
        return Next("protocol", protocol)

    return step


IP_PROTOCOLS: dict[int, Step] = {IPV4: ipv4, IPV6: ipv6, **{kind: _extension(kind) for kind in EXTENSIONS}}
