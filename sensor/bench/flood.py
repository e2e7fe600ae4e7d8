"""Floods: the same costly payload over and over, from one source or from many.

Runs in ``sensor bench overload``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from random import Random
from typing import NamedTuple

from sensor.bench import probe_frames
from sensor.bench.flood_payloads import PORTS
from sensor.protocols import TCP

CLIENT_PORTS = 10_000
"""Ports from which a flood is sent, one after the other, so that it has many flows."""
_FIRST_PORT = 2000
_SOURCE = {4: slice(26, 30), 6: slice(22, 38)}
"""The source address in an Ethernet frame."""
_PORT = {4: slice(34, 36), 6: slice(54, 56)}
_ATTACKER = int(IPv4Address("198.18.0.0"))  # RFC 2544, appendix C.2.2: 2^17 addresses for benchmarks
_NETWORKS = int(IPv6Address("2001:db8:66::")) >> 64


class Origin(NamedTuple):
    """The sources of a flood: their name, IP version and addresses."""

    name: str
    version: int
    address: Callable[[int, Random], int]
    """Returns the source of a frame by its number."""


ORIGINS = {
    "one": Origin("one address", 4, lambda _number, _rng: _ATTACKER + 1),
    "networks": Origin(
        "4 IPv6 /64", 6, lambda number, rng: _NETWORKS + number % 4 << 64 | rng.getrandbits(64)
    ),
    "many": Origin("200 addresses", 4, lambda number, _rng: _ATTACKER + 1 + number % 200),
    "forged": Origin("131,072 forged", 4, lambda _number, rng: _ATTACKER + rng.getrandbits(17)),
}


class FloodKind(NamedTuple):
    """The packets of a flood, and their rate."""

    name: str
    payload: bytes
    per_second: int


class Flood(NamedTuple):
    """Frames with one payload, sent at a steady pace."""

    kind: FloodKind
    origin: Origin

    def frames(self, seed: int) -> Iterator[bytes]:
        """Yield the frames, without end."""
        version, rng = self.origin.version, Random(seed)  # noqa: S311 - the same for the same seed
        source, port = _SOURCE[version], _PORT[version]
        segment = probe_frames.tcp(self.kind.payload, PORTS[1])
        frame = bytearray(
            probe_frames.ipv4(TCP, segment) if version == 4 else probe_frames.ipv6(TCP, segment)
        )
        for number in count():
            frame[source] = self.origin.address(number, rng).to_bytes(source.stop - source.start)
            frame[port] = (_FIRST_PORT + number % CLIENT_PORTS).to_bytes(2)
            yield bytes(frame)
