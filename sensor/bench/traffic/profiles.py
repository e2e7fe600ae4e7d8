"""Traffic for measurements: of a kind, of any length, the same for the same seed. Runs in the generator.

Conversations begin at chance times (Poisson) and their frames interleave as on a mirror port. Among
them go frames made to match, each of a flow of its own: ``matching`` is their share of all frames.
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
"""What begins a message of BitTorrent's DHT (BEP 5), and is hit in the smallest frame."""
OFFICE_ARRIVAL_US, CLUSTER_ARRIVAL_US = 1000, 20_000
"""Between two conversations, on average: those of a data centre are longer."""
_SMALLEST_IP = frames.SMALLEST_FRAME - 14
_UDP_HEADERS = 28

Lone = Callable[[Random], bytes]
"""Builds a frame that a rule hits."""


@dataclass(frozen=True)
class TrafficProfile:
    """A kind of traffic."""

    about: str
    frames: Callable[[Random], Iterator[Frame]]
    """In the order of time, without end."""
    lone: Lone
    matching: float
    """Share of the frames made to match, unless told otherwise."""


def generate(profile: TrafficProfile, seed: int, number: int, matching: float | None = None) -> list[Frame]:
    """Make so many frames, in the order of time."""
    rng = Random(seed)
    made_to_match = round(number * (profile.matching if matching is None else matching))
    made = list(islice(profile.frames(rng), number - made_to_match))
    first, last = (made[0].time_us, made[-1].time_us) if made else (DEMO_START_US, DEMO_START_US + number)
    made += [Frame(rng.randint(first, last), profile.lone(rng)) for _ in range(made_to_match)]
    return sorted(made)


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
    """Let all frames of a conversation go through one tunnel."""
    talk, tunnel = builder(rng, start_us), rng.choice(TUNNELS)
    talk.frames = [Frame(at, tunnel(rng, data) if can_enter(data) else data) for at, data in talk.frames]
    return talk


class _Flow(NamedTuple):
    source: Host
    sport: int
    destination: Host
    dport: int
    frames: int

    def frame(self, rng: Random, payload: bytes) -> bytes:
        """Build one of its datagrams."""
        body = frames.udp(self.source.address, self.sport, self.destination.address, self.dport, payload)
        return _frame(rng, self.source, self.destination, UDP, body)


def _flow(rng: Random) -> _Flow:
    ports = rng.randint(1024, 65_535), rng.randint(1024, 65_535)
    return _Flow(desk(rng), ports[0], remote(rng), ports[1], sizes.flow_frames(rng))


def _datagrams(steps: tuple[tuple[int, int], ...], rng: Random) -> Iterator[Frame]:
    """Send datagrams as long as ``steps`` say: (weight, bytes from IP on)."""
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
    """Send the request of an attack, in a connection whose other packets went another way."""
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
        "elephants and mice", partial(_conversations, {bulk.cluster: 1}, CLUSTER_ARRIVAL_US), _attack, 0.0001
    ),
    "attack": TrafficProfile(
        "a storm in which most frames match", partial(_conversations, OFFICE, OFFICE_ARRIVAL_US), _attack, 0.9
    ),
    "smallest": TrafficProfile("64 bytes on the wire", partial(_datagrams, SMALLEST), _dht_ping, 0.001),
    "imix": TrafficProfile(
        "64, 590 and 1514 bytes", partial(_datagrams, sizes.SIMPLE_IMIX), _dht_ping, 0.001
    ),
    "tunnels": TrafficProfile("the office's, in tunnels", _tunnelled, _attack_in_tunnel, 0.001),
}
