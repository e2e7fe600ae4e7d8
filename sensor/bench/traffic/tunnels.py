"""Tunnels around finished frames: GRE, VXLAN, GENEVE, IP in IP, MPLS, PPPoE.

Runs in the traffic generator.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from sensor.bench.traffic import frames
from sensor.bench.traffic.frames import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from sensor.bench.traffic.hosts import server
from sensor.protocols import GRE, IPV4, IPV6, UDP

Tunnel = Callable[[Random, bytes], bytes]
"""Wraps a frame with an untagged IP packet into a longer frame."""

_ETHERNET_BYTES = 14
_MPLS, _PPPOE, _VXLAN_PORT, _GENEVE_PORT = 0x8847, 0x8864, 4789, 6081
_NETWORK = 5001
_ENDS = server(200), server(201)


def can_enter(frame: bytes) -> bool:
    """Return True if a frame carries an untagged IP packet, which every tunnel accepts."""
    return _ethertype(frame) in (ETHERTYPE_IPV4, ETHERTYPE_IPV6)


def gre(rng: Random, frame: bytes) -> bytes:
    """Wrap the packet in GRE (RFC 2784)."""
    return _in_ip(rng, GRE, struct.pack("!HH", 0, _ethertype(frame)) + frame[_ETHERNET_BYTES:])


def ip_in_ip(rng: Random, frame: bytes) -> bytes:
    """Wrap the packet in IPv4 (RFC 2003, RFC 4213)."""
    protocol = IPV4 if _ethertype(frame) == ETHERTYPE_IPV4 else IPV6
    return _in_ip(rng, protocol, frame[_ETHERNET_BYTES:])


def vxlan(rng: Random, frame: bytes) -> bytes:
    """Wrap the frame in VXLAN (RFC 7348)."""
    return _in_udp(rng, _VXLAN_PORT, struct.pack("!II", 0x08 << 24, _NETWORK << 8) + frame)


def geneve(rng: Random, frame: bytes) -> bytes:
    """Wrap the frame in GENEVE (RFC 8926)."""
    return _in_udp(rng, _GENEVE_PORT, struct.pack("!BBHI", 0, 0, 0x6558, _NETWORK << 8) + frame)


def mpls(_rng: Random, frame: bytes) -> bytes:
    """Put two labels in front of the packet (RFC 3032)."""
    return _on_link(_MPLS, struct.pack("!II", 16 << 12 | 64, 17 << 12 | 0x100 | 64) + frame[_ETHERNET_BYTES:])


def pppoe(_rng: Random, frame: bytes) -> bytes:
    """Wrap the packet in PPPoE (RFC 2516)."""
    protocol = 0x21 if _ethertype(frame) == ETHERTYPE_IPV4 else 0x57
    packet = frame[_ETHERNET_BYTES:]
    return _on_link(_PPPOE, struct.pack("!BBHHH", 0x11, 0, 7, 2 + len(packet), protocol) + packet)


TUNNELS: tuple[Tunnel, ...] = (gre, ip_in_ip, vxlan, geneve, mpls, pppoe)


def _ethertype(frame: bytes) -> int:
    return int.from_bytes(frame[12:14], "big")


def _on_link(ethertype: int, body: bytes) -> bytes:
    source, destination = _ENDS
    return frames.ethernet(source.mac, destination.mac, ethertype, body)


def _in_ip(rng: Random, protocol: int, body: bytes) -> bytes:
    source, destination = _ENDS
    identification, room = rng.getrandbits(16), 20 + len(body)
    [packet] = frames.packets(source, destination, protocol, body, identification=identification, mtu=room)
    return _on_link(ETHERTYPE_IPV4, packet)


def _in_udp(rng: Random, port: int, body: bytes) -> bytes:
    source, destination = (end.address for end in _ENDS)
    return _in_ip(rng, UDP, frames.udp(source, rng.randint(49_152, 65_535), destination, port, body))
