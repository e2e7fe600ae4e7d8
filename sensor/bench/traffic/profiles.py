"""Traffic profiles for measurements, of any length and the same for the same seed.

Conversations begin at random times (Poisson), and their frames interleave as on a mirror port. Frames made
to match are mixed in, each in a flow of its own; ``matching`` is their share of all frames. Runs in the
traffic generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count, islice
from random import Random
from typing import NamedTuple

from sensor.bench.traffic import bulk, frames, ordinary, sizes
from sensor.bench.traffic.conversations import Conversation
from sensor.bench.traffic.frames import ACK, PSH, Frame, Host
from sensor.bench.traffic.hosts import desk, remote, server
from sensor.bench.traffic.mix import DEMO_START_US
from sensor.bench.traffic.notable import ATTACKS
from sensor.bench.traffic.ordinary import Builder
from sensor.bench.traffic.tunnels import TUNNELS, can_enter
from sensor.protocols import TCP, UDP

DHT_PING = b"d1:ad2:id20:"
"""Start of a BitTorrent DHT message (BEP 5), which a rule matches even in the smallest frame."""
OFFICE_ARRIVAL_US, CLUSTER_ARRIVAL_US = 1000, 20_000
"""Mean time between two conversations; those of a data centre are longer."""
_SMALLEST_IP = frames.SMALLEST_FRAME - 14
_UDP_HEADERS = 28

FrameBuilder = Callable[[Random], bytes]
"""Builds a frame that a rule matches."""


@dataclass(frozen=True)
class TrafficProfile:
    """A kind of traffic."""

    description: str
    frames: Callable[[Random], Iterator[Frame]]
    """Yields frames in order of time, without end."""
    matching_frame: FrameBuilder
    matching: float
    """Default share of the frames made to match."""


def generate(profile: TrafficProfile, seed: int, number: int, matching: float | None = None) -> list[Frame]:
    """Return ``number`` frames in order of time."""
    rng = Random(seed)
    matching_count = round(number * (profile.matching if matching is None else matching))
    generated = list(islice(profile.frames(rng), number - matching_count))
    first, last = (
        (generated[0].time_us, generated[-1].time_us)
        if generated
        else (DEMO_START_US, DEMO_START_US + number)
    )
    generated += [Frame(rng.randint(first, last), profile.matching_frame(rng)) for _ in range(matching_count)]
    return sorted(generated)


def _conversations(weights: dict[Builder, int], arrival_us: int, rng: Random) -> Iterator[Frame]:
    builders, pending, now_us = list(weights), list[Frame](), float(DEMO_START_US)
    while True:
        [builder] = rng.choices(builders, list(weights.values()))
        for frame in builder(rng, round(now_us)).frames:
            heappush(pending, frame)
        now_us += rng.expovariate(1 / arrival_us)
        while pending and pending[0].time_us < now_us:
            yield heappop(pending)


def _tunnelled(rng: Random) -> Iterator[Frame]:
    weights: dict[Builder, int] = {partial(_in_tunnel, builder): weight for builder, weight in OFFICE.items()}
    return _conversations(weights, OFFICE_ARRIVAL_US, rng)


def _in_tunnel(builder: Builder, rng: Random, start_us: int) -> Conversation:
    """Build a conversation whose frames all use one tunnel."""
    talk, tunnel = builder(rng, start_us), rng.choice(TUNNELS)
    talk.frames = [Frame(at, tunnel(rng, data) if can_enter(data) else data) for at, data in talk.frames]
    return talk


class _DatagramFlow(NamedTuple):
    """A UDP flow, with the number of frames it still has."""

    source: Host
    sport: int
    destination: Host
    dport: int
    frames: int

    def frame(self, rng: Random, payload: bytes) -> bytes:
        """Build a frame with one datagram."""
        body = frames.udp(self.source.address, self.sport, self.destination.address, self.dport, payload)
        return _frame(rng, self.source, self.destination, UDP, body)


def _flow(rng: Random) -> _DatagramFlow:
    ports = rng.randint(1024, 65_535), rng.randint(1024, 65_535)
    return _DatagramFlow(desk(rng), ports[0], remote(rng), ports[1], sizes.flow_frames(rng))


def _datagrams(steps: tuple[tuple[int, int], ...], rng: Random) -> Iterator[Frame]:
    """Yield datagrams of random flows; ``steps`` are pairs of weight and bytes from the IP header on."""
    weights, lengths = zip(*steps, strict=True)
    flows = [_flow(rng) for _ in range(64)]
    for time_us in count(DEMO_START_US, 10):
        place = rng.randrange(len(flows))
        flow = flows[place]
        flows[place] = flow._replace(frames=flow.frames - 1) if flow.frames > 1 else _flow(rng)
        [length] = rng.choices(lengths, weights)
        yield Frame(time_us, flow.frame(rng, rng.randbytes(length - _UDP_HEADERS)))


def _dht_ping(rng: Random) -> bytes:
    return _flow(rng).frame(rng, DHT_PING)


def _attack(rng: Random) -> bytes:
    """Build the request of an attack, without the rest of its connection."""
    what = rng.choice(ATTACKS)
    source, destination = (
        (desk(rng), remote(rng)) if what.outward else (remote(rng), server(rng.randint(80, 99)))
    )
    segment = frames.tcp(
        source.address, rng.randint(1024, 65_535), destination.address, what.port,
        seq=rng.getrandbits(32), ack=rng.getrandbits(32), flags=ACK | PSH, payload=what.request,
    )  # fmt: skip
    return _frame(rng, source, destination, TCP, segment)


def _frame(rng: Random, source: Host, destination: Host, protocol: int, body: bytes) -> bytes:
    [packet] = frames.packets(source, destination, protocol, body, identification=rng.getrandbits(16))
    return frames.ethernet(source.mac, destination.mac, frames.ETHERTYPE_IPV4, packet)


def _attack_in_tunnel(rng: Random) -> bytes:
    return rng.choice(TUNNELS)(rng, _attack(rng))


OFFICE: dict[Builder, int] = {
    ordinary.dns: 40,
    ordinary.browsing: 10,
    ordinary.tls: 20,
    bulk.download: 10,
    bulk.share: 8,
    ordinary.mail: 3,
    ordinary.ssh_session: 3,
    ordinary.ntp: 3,
    ordinary.arp: 3,
    ordinary.ping: 2,
}
SMALLEST = ((1, _SMALLEST_IP),)

PROFILES = {
    "office": TrafficProfile(
        "web, TLS, DNS, mail, file shares", partial(_conversations, OFFICE, OFFICE_ARRIVAL_US), _attack, 0.001
    ),
    "datacenter": TrafficProfile(
        "few large flows, many small ones",
        partial(_conversations, {bulk.cluster: 1}, CLUSTER_ARRIVAL_US),
        _attack,
        0.0001,
    ),
    "attack": TrafficProfile(
        "an attack storm, most frames match", partial(_conversations, OFFICE, OFFICE_ARRIVAL_US), _attack, 0.9
    ),
    "smallest": TrafficProfile("64 bytes on the wire", partial(_datagrams, SMALLEST), _dht_ping, 0.001),
    "imix": TrafficProfile(
        "64, 590 and 1514 bytes", partial(_datagrams, sizes.SIMPLE_IMIX), _dht_ping, 0.001
    ),
    "tunnels": TrafficProfile("office traffic in tunnels", _tunnelled, _attack_in_tunnel, 0.001),
}
