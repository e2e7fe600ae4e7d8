"""Tunnels: GRE, VXLAN, Geneve, GTP-U; runs wherever `dissect` does. IP in IP needs no header of its own."""

from __future__ import annotations

from sensor.dissect.layer import FrameReader, Next, flags, hexadecimal
from sensor.model import LinkType

_IPV4, _IPV6, _ETHERNET = 0x0800, 0x86DD, 0x6558
_GRE_FLAGS = {0x8000: "checksum", 0x2000: "key", 0x1000: "sequence"}
_GTP_OPTIONAL = 0x07
_GTP_DATA = 255


def gre(cursor: FrameReader) -> Next | None:
    """Read a header of version 0 (RFC 2784, RFC 2890)."""
    cursor.begin("GRE")
    word = cursor.number("flags and version", 2, lambda value: flags(value, _GRE_FLAGS))
    kind = cursor.number("protocol", 2, hexadecimal)
    if word & 0x4007:  # routing, or another version than 0
        return None
    for bit, name in _GRE_FLAGS.items():
        if word & bit:
            cursor.number(name, 4)
    return Next("ethertype", kind)


def vxlan(cursor: FrameReader) -> Next:
    """Read a header (RFC 7348); an Ethernet frame follows."""
    cursor.begin("VXLAN")
    cursor.number("flags", 1, hex)
    cursor.octets("reserved", 3)
    cursor.number("network identifier", 3)
    cursor.octets("reserved", 1)
    return Next("link", LinkType.ETHERNET)


def geneve(cursor: FrameReader) -> Next:
    """Read a header with its options (RFC 8926)."""
    cursor.begin("Geneve")
    first = cursor.number("version and options length", 1, hex)
    cursor.number("flags", 1, hex)
    kind = cursor.number("protocol", 2, hexadecimal)
    cursor.number("network identifier", 3)
    cursor.octets("reserved", 1)
    cursor.octets("options", (first & 0x3F) * 4)
    return Next("ethertype", kind)


def gtp(cursor: FrameReader) -> Next | None:
    """Read a GTP-U header with its extensions (3GPP TS 29.281); a user's IP packet follows."""
    cursor.begin("GTP-U")
    first = cursor.number("flags", 1, hex)
    kind = cursor.number("message type", 1, {_GTP_DATA: "user data"})
    length = cursor.number("length", 2)
    cursor.number("tunnel endpoint", 4, lambda value: f"{value:#010x}")
    cursor.narrow(cursor.position + length)
    if first & _GTP_OPTIONAL:
        cursor.number("sequence", 2)
        cursor.number("N-PDU", 1)
        following = cursor.number("next extension", 1)
        while following and first & 0x04:
            size = cursor.number("extension length", 1) * 4
            cursor.octets("extension", size - 2)
            following = cursor.number("next extension", 1)
    if kind != _GTP_DATA or not cursor.left:
        return None
    return Next("ethertype", _IPV6 if cursor.frame[cursor.position] >> 4 == 6 else _IPV4)
