"""Tunnels: GRE, VXLAN, Geneve and GTP-U; IP in IP has no header of its own. Runs where `dissect` runs."""

from __future__ import annotations

from sensor.dissect.frame_reader import FrameReader, Next, flags, hexadecimal
from sensor.model import LinkType

_IPV4, _IPV6, _ETHERNET = 0x0800, 0x86DD, 0x6558
_GRE_FLAGS = {0x8000: "checksum", 0x2000: "key", 0x1000: "sequence"}
_GTP_OPTIONAL = 0x07
_GTP_DATA = 255


def gre(reader: FrameReader) -> Next | None:
    """Read a GRE header of version 0 (RFC 2784, RFC 2890)."""
    reader.begin_layer("GRE")
    word = reader.read_number("flags and version", 2, lambda value: flags(value, _GRE_FLAGS))
    kind = reader.read_number("protocol", 2, hexadecimal)
    if word & 0x4007:  # routing, or another version than 0
        return None
    for bit, name in _GRE_FLAGS.items():
        if word & bit:
            reader.read_number(name, 4)
    return Next("ethertype", kind)


def vxlan(reader: FrameReader) -> Next:
    """Read a VXLAN header (RFC 7348); an Ethernet frame follows."""
    reader.begin_layer("VXLAN")
    reader.read_number("flags", 1, hex)
    reader.read_bytes("reserved", 3)
    reader.read_number("network identifier", 3)
    reader.read_bytes("reserved", 1)
    return Next("link", LinkType.ETHERNET)


def geneve(reader: FrameReader) -> Next:
    """Read a Geneve header with its options (RFC 8926)."""
    reader.begin_layer("Geneve")
    first = reader.read_number("version and options length", 1, hex)
    reader.read_number("flags", 1, hex)
    kind = reader.read_number("protocol", 2, hexadecimal)
    reader.read_number("network identifier", 3)
    reader.read_bytes("reserved", 1)
    reader.read_bytes("options", (first & 0x3F) * 4)
    return Next("ethertype", kind)


def gtp(reader: FrameReader) -> Next | None:
    """Read a GTP-U header with its extensions (3GPP TS 29.281); the IP packet of the subscriber follows."""
    reader.begin_layer("GTP-U")
    first = reader.read_number("flags", 1, hex)
    kind = reader.read_number("message type", 1, {_GTP_DATA: "user data"})
    length = reader.read_number("length", 2)
    reader.read_number("tunnel endpoint", 4, lambda value: f"{value:#010x}")
    reader.narrow(reader.position + length)
    if first & _GTP_OPTIONAL:
        reader.read_number("sequence", 2)
        reader.read_number("N-PDU", 1)
        following = reader.read_number("next extension", 1)
        while following and first & 0x04:
            size = reader.read_number("extension length", 1) * 4
            reader.read_bytes("extension", size - 2)
            following = reader.read_number("next extension", 1)
    if kind != _GTP_DATA or not reader.left:
        return None
    return Next("ethertype", _IPV6 if reader.frame[reader.position] >> 4 == 6 else _IPV4)
