"""Included and excluded networks: kernel and user space decide alike, and like `ipaddress`."""

from __future__ import annotations

import random
from contextlib import closing
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from frames import IPV4, IPV6, UDP, ethernet, ipv4, ipv6, udp
from law import Bench, one_cpu
from live import PASS_ALL

from sensor import abi
from sensor.capture.program import Program, ProgramOptions
from sensor.model import Rule
from sensor.pipeline import Pipeline
from sensor.rules.engine.matcher import Matcher
from sensor.rules.prefilter.networks import Networks

pytestmark = pytest.mark.kernel(alone=False)

IpNetwork = IPv4Network | IPv6Network
RULE = Rule(1, "threat", "t", "n", "payload")
PACKETS = 4000


def networks(rng: random.Random, count: int) -> tuple[IpNetwork, ...]:
    """Draw networks, many of which contain others."""
    found: list[IpNetwork] = []
    for _ in range(count):
        found.append(IPv4Network((address4(rng), rng.choice((9, 10, 30, 31, 32))), strict=False))
        found.append(IPv6Network((address6(rng), rng.choice((48, 65, 127, 128))), strict=False))
    return tuple(found)


def address4(rng: random.Random) -> int:
    """Draw an IPv4 address from few, which often share a network."""
    return 0x0A000000 | rng.choice((0, 1 << 23, 3 << 22)) | rng.getrandbits(3)


def address6(rng: random.Random) -> int:
    """Draw an IPv6 address from few, which often share a network."""
    return 0x20010DB8 << 96 | rng.choice((0, 1 << 80, 1 << 63)) | rng.getrandbits(2)


def is_watched(addresses: tuple[int, int], version: int, include: object, exclude: object) -> bool:
    """Decide about two addresses as the documentation says."""

    def meaning(address: int) -> str:
        sides = [(net, "in") for net in include] + [(net, "out") for net in exclude]  # type: ignore[attr-defined]
        of_version = [(net, side) for net, side in sides if net.version == version]
        number = ip_address(address.to_bytes(4 if version == 4 else 16, "big"))
        fitting = [(net.prefixlen, side) for net, side in of_version if number in net]
        return max(fitting)[1] if fitting else "none"  # a network that is included and excluded is excluded

    found = [meaning(address) for address in addresses]
    return "out" not in found and (not include or "in" in found)


def packet(version: int, source: int, destination: int, number: int) -> bytes:
    """Make a packet with payload between two addresses."""
    datagram = udp(b"payload %d" % number, sport=number + 1)
    ends = {
        name: str(ip_address(address.to_bytes(4 if version == 4 else 16, "big")))
        for name, address in (("source", source), ("destination", destination))
    }
    if version == 4:
        return ethernet(IPV4, ipv4(UDP, datagram, **ends))
    return ethernet(IPV6, ipv6(UDP, datagram, **ends))


@pytest.mark.parametrize(
    ("includes", "excludes"), [(4, 0), (0, 4), (6, 6), (30, 10)], ids=["include", "exclude", "both", "many"]
)
def test_kernel_and_user_space_decide_alike(includes: int, excludes: int) -> None:
    """Networks and addresses are random. The longest matching prefix of each address wins."""
    rng = random.Random(includes)
    include, exclude = networks(rng, includes), networks(rng, excludes)
    expected, sent = [], []
    for number in range(PACKETS):
        version, draw = rng.choice(((4, address4), (6, address6)))
        ends = draw(rng), draw(rng)
        sent.append(packet(version, *ends, number))
        if is_watched(ends, version, include, exclude):
            expected.append(sent[-1])
    assert 0.02 * PACKETS < len(expected) < 0.98 * PACKETS

    def kept(options: ProgramOptions, watched: Networks) -> tuple[list[bytes], int]:
        with one_cpu() as cpu, closing(Bench(Program(PASS_ALL, options), cpu)) as bench:
            pipeline = Pipeline(Matcher([RULE]), "any", "thorough", networks=watched)
            frames = [item.frame for item in bench.kept(sent, pipeline, counted=True)]
            return frames, bench.program.counters()[abi.Counter.IGNORED_NETWORK][0]

    assert kept(ProgramOptions(include=include, exclude=exclude), Networks()) == (
        expected,
        PACKETS - len(expected),
    )
    assert kept(ProgramOptions(), Networks(include, exclude)) == (expected, 0)
