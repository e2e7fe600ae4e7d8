"""The hosts: an office network, its servers, and the Internet behind a router.

All addresses are from the ranges reserved for documentation (RFC 5737, RFC 3849). Runs in the traffic
generator.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random

from sensor.bench.traffic.frames import Host

ROUTER_MAC = bytes.fromhex("02005e000001")
BROADCAST_MAC = b"\xff" * 6
NETWORKS = {
    4: {"desk": "192.0.2.{}", "server": "198.51.100.{}", "remote": "203.0.113.{}"},
    6: {"desk": "2001:db8:10::{:x}", "server": "2001:db8:20::{:x}", "remote": "2001:db8:ff::{:x}"},
}


def desk(rng: Random, version: int = 4) -> Host:
    """Pick a workstation of the office."""
    number = rng.randint(20, 180)
    return Host(
        b"\x02\x00\x10\0\0" + bytes([number]), _address(version, "desk", number), rng.choice((64, 128))
    )


def server(number: int, version: int = 4) -> Host:
    """Return one of the office's own servers."""
    return Host(b"\x02\x00\x20\0\0" + bytes([number]), _address(version, "server", number))


def remote(rng: Random, version: int = 4) -> Host:
    """Pick a host on the Internet."""
    return Host(ROUTER_MAC, _address(version, "remote", rng.randint(1, 254)), rng.randint(44, 58))


def _address(version: int, network: str, number: int) -> IPv4Address | IPv6Address:
    return ip_address(NETWORKS[version][network].format(number))
