"""Protocols, addresses and bytes as text. Used wherever people or other programs read."""

from __future__ import annotations

from socket import if_indextoname

PROTOCOL_NAMES = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
_PRINTABLE = bytes(byte if 0x20 <= byte <= 0x7E else ord(".") for byte in range(256))


def printable(data: bytes) -> str:
    """Text of the same length, every byte outside 0x20-0x7e as a dot."""
    return data.translate(_PRINTABLE).decode("ascii")


def protocol_name(protocol: int) -> str:
    """``TCP``, ``UDP``, ..., or the IANA number of a protocol without a name here."""
    return PROTOCOL_NAMES.get(protocol, str(protocol))


def interface_name(index: int) -> str:
    """Return the name of a live interface; the index as text where the interface went away since."""
    try:
        return if_indextoname(index)
    except OSError:
        return str(index)


def endpoint(address: str, port: int) -> str:
    """Address and port as text; port 0 is none."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
