"""Frames for measurements, with checksums of 0, which no code measured here verifies.

Runs in ``sensor bench``.
"""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address, IPv6Address

SYN, ACK, PSH = 0x02, 0x10, 0x08
_IPV4, _IPV6, _VLAN = 0x0800, 0x86DD, 0x8100
_SOURCE4, _DESTINATION4 = IPv4Address("192.0.2.10"), IPv4Address("198.51.100.20")
_SOURCE6, _DESTINATION6 = IPv6Address("2001:db8::10"), IPv6Address("2001:db8:1::20")
_MACS = bytes.fromhex("02000000000a 02000000000b")
_TIMESTAMPS = b"\1\1\x08\x0a" + bytes(8)
_MSS = b"\2\4\x05\xb4"


def ipv4(protocol: int, segment: bytes, *, vlan: int | None = None) -> bytes:
    """Return a frame with an IPv4 packet, and with a VLAN tag if ``vlan`` is given."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, 64, protocol, 0)
    tag = b"" if vlan is None else struct.pack("!HH", _VLAN, vlan)
    packet = header + _SOURCE4.packed + _DESTINATION4.packed + segment
    return _MACS + tag + struct.pack("!H", _IPV4) + packet


def ipv6(protocol: int, segment: bytes) -> bytes:
    """Return a frame with an IPv6 packet."""
    header = struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64)
    packet = header + _SOURCE6.packed + _DESTINATION6.packed + segment
    return _MACS + struct.pack("!H", _IPV6) + packet


def tcp(payload: bytes, dport: int, *, sport: int = 40000, flags: int = PSH | ACK) -> bytes:
    """Return a segment with the options Linux sends."""
    options = (_MSS if flags & SYN else b"") + _TIMESTAMPS
    words = 5 + len(options) // 4
    return struct.pack("!HHIIBBHHH", sport, dport, 1, 1, words << 4, flags, 502, 0, 0) + options + payload


def udp(payload: bytes, dport: int, *, sport: int = 40000) -> bytes:
    """Return a datagram."""
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def tls_application_data(size: int) -> bytes:
    """Return a TLS record with ``size`` bytes of application data, the same at each call."""
    return b"\x17\x03\x03" + struct.pack("!H", size) + random.Random(size).randbytes(size)  # noqa: S311
