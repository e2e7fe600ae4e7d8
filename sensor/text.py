"""Addresses, interfaces and bytes as text, for people and for other programs. Runs in every process."""

from __future__ import annotations

from socket import if_indextoname

_PRINTABLE = bytes(byte if 0x20 <= byte <= 0x7E else ord(".") for byte in range(256))


def printable(data: bytes) -> str:
    """Return text of the same length, with a dot for every byte outside 0x20-0x7e."""
    return data.translate(_PRINTABLE).decode("ascii")


def interface_name(index: int) -> str:
    """Return the name of an interface, or its index as text if the interface no longer exists."""
    try:
        return if_indextoname(index)
    except OSError:
        return str(index)


def endpoint(address: str, port: int) -> str:
    """Return an address with its port, or the address alone if the port is 0."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
