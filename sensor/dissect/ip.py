"""IPv4, IPv6 and its extension headers. Runs where `dissect` runs."""

from __future__ import annotations

import ipaddress

from sensor.dissect.frame_reader import FrameReader, Next, Step, flags, hexadecimal
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


def ipv4(reader: FrameReader) -> Next | None:
    """Read an IPv4 header with its options (RFC 791)."""
    start = reader.begin_layer("IPv4")
    first = reader.read(1)[0]
    size = (first & 0x0F) * 4
    reader.add_field("version", first >> 4, start, start + 1)
    reader.add_field("header length", f"{size} bytes", start, start + 1)
    reader.read_number("type of service", 1, hex)
    length = reader.read_number("total length", 2)
    reader.read_number("identification", 2, hexadecimal)
    fragment = int.from_bytes(reader.read(2))
    reader.add_field("flags", flags(fragment >> 13, _FRAGMENT_FLAGS), start + 6, start + 7)
    reader.add_field("fragment offset", (fragment & 0x1FFF) * 8, start + 6, start + 8)
    reader.read_number("TTL", 1)
    protocol = reader.read_number("protocol", 1, HEADER_NAMES)
    reader.read_number("checksum", 2, hexadecimal)
    reader.read_bytes("source", 4, address)
    reader.read_bytes("destination", 4, address)
    if length:  # segmentation offload writes 0
        reader.narrow(start + length)
    if size < _IPV4_SIZE_MIN:
        return None
    reader.read_bytes("options", size - _IPV4_SIZE_MIN)
    return None if fragment & 0x1FFF else Next("protocol", protocol)


def ipv6(reader: FrameReader) -> Next | None:
    """Read an IPv6 header (RFC 8200)."""
    start = reader.begin_layer("IPv6")
    first = int.from_bytes(reader.read(4))
    reader.add_field("version", first >> 28, start, start + 1)
    reader.add_field("traffic class", hex(first >> 20 & 0xFF), start, start + 2)
    reader.add_field("flow label", f"{first & 0xFFFFF:#07x}", start + 1, start + 4)
    length = reader.read_number("payload length", 2)
    protocol = reader.read_number("next header", 1, HEADER_NAMES)
    reader.read_number("hop limit", 1)
    reader.read_bytes("source", 16, address)
    reader.read_bytes("destination", 16, address)
    if length:
        reader.narrow(start + _IPV6_SIZE + length)
    return Next("protocol", protocol)


def _extension(kind: int) -> Step:
    def step(reader: FrameReader) -> Next | None:
        """Read an extension header (RFC 8200, section 4; AH: RFC 4302)."""
        start = reader.begin_layer(EXTENSIONS[kind])
        protocol = reader.read_number("next header", 1, HEADER_NAMES)
        if kind == FRAGMENT:
            reader.read_number("reserved", 1)
            offset = reader.read_number(
                "offset and flags", 2, lambda value: f"{value & 0xFFF8}, more: {value & 1}"
            )
            reader.read_number("identification", 4)
            return None if offset & 0xFFF8 else Next("protocol", protocol)
        length = reader.read_number("length", 1)
        size = (length + 2) * 4 if kind == AH else (length + 1) * 8
        reader.read_bytes("content", start + size - reader.position)
        return Next("protocol", protocol)

    return step


IP_PROTOCOLS: dict[int, Step] = {IPV4: ipv4, IPV6: ipv6, **{kind: _extension(kind) for kind in EXTENSIONS}}
