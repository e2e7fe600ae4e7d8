"""Frames, and the capture file they are written to. Runs in the traffic generator.

Addresses are `ipaddress` objects, whose family decides between IPv4 and IPv6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from sensor.protocols import FRAGMENT, ICMPV6, TCP, UDP

Address = IPv4Address | IPv6Address

ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_VLAN, ETHERTYPE_IPV6, ETHERTYPE_QINQ = (
    0x0800,
    0x0806,
    0x8100,
    0x86DD,
    0x88A8,
)
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

SMALLEST_FRAME = 60
"""Bytes of the smallest Ethernet frame, without the check sequence."""


class Frame(NamedTuple):
    """The bytes of a frame on the wire, from the Ethernet header on."""

    time_us: int
    data: bytes


class Host(NamedTuple):
    """A sender or receiver; the link address of a host behind a router is the router's."""

    mac: bytes
    address: Address
    ttl: int = 64


def checksum(data: bytes) -> int:
    """Compute the Internet checksum (RFC 1071); it is never 0, which means "none" in UDP.

    2**16 is 1 modulo 0xffff, so the remainder is the ones' complement sum of all words.
    """
    return 0xFFFF - int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF


def ethernet(
    source: bytes, destination: bytes, ethertype: int, body: bytes, vlans: tuple[int, ...] = ()
) -> bytes:
    """Build a frame, padded to the smallest size; ``vlans`` are VLAN ids, outer first; two make QinQ."""
    tags = b"".join(
        struct.pack("!HH", ETHERTYPE_QINQ if index < len(vlans) - 1 else ETHERTYPE_VLAN, vlan)
        for index, vlan in enumerate(vlans)
    )
    frame = destination + source + tags + ethertype.to_bytes(2, "big") + body
    return frame.ljust(SMALLEST_FRAME, b"\0")


def arp(operation: int, sender: Host, target: Host) -> bytes:
    """Build an ARP request (1) or reply (2) (RFC 826)."""
    ends = sender.mac + sender.address.packed + target.mac + target.address.packed
    return struct.pack("!HHBBH", 1, ETHERTYPE_IPV4, 6, 4, operation) + ends


def with_checksum(source: Address, destination: Address, protocol: int, segment: bytes, at: int) -> bytes:
    """Fill in the checksum of ``segment`` and its pseudo header at offset ``at``."""
    layout = "!HH" if source.version == 4 else "!II"
    pseudo = source.packed + destination.packed + struct.pack(layout, protocol, len(segment))
    return segment[:at] + checksum(pseudo + segment).to_bytes(2, "big") + segment[at + 2 :]


def tcp(
    source: Address,
    sport: int,
    destination: Address,
    dport: int,
    *,
    seq: int,
    ack: int,
    flags: int,
    window: int = 0xFFFF,
    options: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """Build a TCP segment (RFC 9293); ``options`` must be padded to whole words."""
    words = 5 + len(options) // 4
    header = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, words << 4, flags, window, 0, 0)
    return with_checksum(source, destination, TCP, header + options + payload, at=16)


def udp(source: Address, sport: int, destination: Address, dport: int, payload: bytes) -> bytes:
    """Build a UDP datagram (RFC 768)."""
    header = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0)
    return with_checksum(source, destination, UDP, header + payload, at=6)


def echo(
    source: Address, destination: Address, *, reply: bool, identifier: int, seq: int, payload: bytes
) -> bytes:
    """Build an echo request or reply, ICMP (RFC 792) or ICMPv6 (RFC 4443)."""
    if source.version == 6:
        header = struct.pack("!BBHHH", 129 if reply else 128, 0, 0, identifier, seq)
        return with_checksum(source, destination, ICMPV6, header + payload, at=2)
    message = struct.pack("!BBHHH", 0 if reply else 8, 0, 0, identifier, seq) + payload
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def packets(
    source: Host, destination: Host, protocol: int, body: bytes, *, identification: int, mtu: int = 1500
) -> list[bytes]:
    """Build one IP packet around ``body``, or fragments if it is longer than ``mtu`` allows."""
    version = source.address.version
    ends = source.address.packed + destination.address.packed

    def packet(part: bytes, fragment: int | None) -> bytes:
        if version == 4:
            return _ipv4(ends, protocol, part, source.ttl, identification, fragment)
        return _ipv6(ends, protocol, part, source.ttl, identification, fragment)

    if len(body) <= mtu - (20 if version == 4 else 40):
        return [packet(body, None)]
    room = (mtu - (20 if version == 4 else 48)) // 8 * 8
    return [packet(body[at : at + room], at | (at + room < len(body))) for at in range(0, len(body), room)]


def _ipv4(
    ends: bytes, protocol: int, body: bytes, ttl: int, identification: int, fragment: int | None
) -> bytes:
    """Build an IPv4 packet (RFC 791); ``fragment`` is the offset in bytes, with bit 0 set if more follow."""
    field = 0x4000 if fragment is None else (fragment & 1) << 13 | fragment >> 3
    header = struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(body), identification & 0xFFFF, field, ttl, protocol, 0
    )
    return header[:10] + checksum(header + ends).to_bytes(2, "big") + ends + body


def _ipv6(
    ends: bytes, protocol: int, body: bytes, ttl: int, identification: int, fragment: int | None
) -> bytes:
    """Build an IPv6 packet (RFC 8200), with a fragment header if ``fragment``, as in `_ipv4`, is given."""
    if fragment is not None:
        body = struct.pack("!BBHI", protocol, 0, fragment, identification) + body
        protocol = FRAGMENT
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, ttl) + ends + body


def write_capture(path: Path, frames: Iterable[Frame]) -> None:
    """Write a classic pcap file: little endian, microseconds, Ethernet."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0xFFFF, 1))
        for time_us, data in frames:
            file.write(struct.pack("<IIII", *divmod(time_us, 1_000_000), len(data), len(data)) + data)
