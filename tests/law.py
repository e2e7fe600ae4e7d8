"""Run the program, its ring and a pipeline without an interface, and make frames for them.

Payloads of the frames are close to what rules match, in all kinds of headers.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from evidence_of import evidence_of
from frames import (
    AH_HEADER,
    DESTINATION_HEADER,
    FIRST,
    HOP_HEADER,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    LAST,
    MORE_FRAGMENTS,
    ROUTING_HEADER,
    TCP,
    UDP,
    ethernet,
    extended,
    icmp,
    ipv4,
    ipv6,
    tcp,
    udp,
)
from tunnels import TUNNELS, VXLAN_PORT, tunnelled

from sensor import abi
from sensor.capture.clock import WallClock
from sensor.capture.program import Program
from sensor.capture.ring import PerfRing
from sensor.capture.syscalls import prog_test_run
from sensor.model import Evidence, Rule
from sensor.pipeline import Pipeline
from tests.rules.samples import mutated

SMALLEST_FRAME = 14
RING_BYTES = 1 << 23
RECORD_BYTES = 64
"""Upper bound of what a record adds to its frame."""
HTTP = b"GET /index.html HTTP/1.1\r\nHost: www.example.org\r\n\r\n"
NETWORKS4 = [f"10.{net}.{sub}.{host}" for net in (1, 2) for sub in (0, 128) for host in (1, 65)]
NETWORKS6 = [f"2001:db8:{net}:{sub}::{host}" for net in (1, 2) for sub in (0, 8000) for host in (1, 65)]


@contextmanager
def one_cpu() -> Iterator[int]:
    """Run on one CPU, whose ring gets all frames; yield its number."""
    allowed = os.sched_getaffinity(0)
    cpu = min(allowed)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, allowed)


class Bench:
    """A program with a ring on this CPU, which turns frames into evidence."""

    def __init__(self, program: Program, cpu: int) -> None:
        self.program = program
        self._ring = PerfRing(cpu, RING_BYTES)
        self._clock = WallClock()
        program.connect([self._ring])

    def kept(self, frames: Iterable[bytes], pipeline: Pipeline, *, counted: bool) -> list[Evidence]:
        """Return the evidence of frames, with time 0; ``counted``: use the kernel's counts of packets."""
        found: list[Evidence] = []
        free = RING_BYTES
        for frame in frames:
            free -= len(frame) + RECORD_BYTES
            if free < 0:
                found += self._drain(pipeline, counted)
                free = RING_BYTES - len(frame) - RECORD_BYTES
            prog_test_run(self.program.fd, frame)
        found += self._drain(pipeline, counted)
        assert self.program.counters()[abi.Counter.SUBMIT_FAILED] == (0, 0)
        return found

    def _drain(self, pipeline: Pipeline, counted: bool) -> Iterator[Evidence]:
        while (batch := self._ring.read(self._clock)) is not None:
            if not counted:
                batch = replace(batch, flow_packets=None, flow_born_jiffies=None)
            for item in evidence_of(pipeline, batch):
                yield item._replace(timestamp_ns=0)
            self._ring.release()

    def close(self) -> None:
        """Close the program and the ring."""
        self.program.close()
        self._ring.close()


class Wrapper:
    """Puts payloads into frames with random headers of all kinds."""

    def __init__(self, rules: Sequence[Rule], seed: int) -> None:
        self.rng = random.Random(seed)
        self._ports = sorted({rule.port for rule in rules} - {0}) or [80]

    def frames(self, payload: bytes, rule: Rule) -> list[bytes]:
        """Return one frame, or two if the payload is cut; most have the protocol and port of the rule."""
        rng = self.rng
        make = self.flow(rule)
        if rng.random() < 0.1:
            cut = rng.randrange(len(payload) + 1)
            return [make(payload[:cut]), make(payload[cut:], answer=rng.random() < 0.2)]
        return [make(payload)]

    def flow(self, rule: Rule) -> partial[bytes]:
        """Return a function that makes frames of one flow from payloads."""
        rng = self.rng
        version = rng.choice((4, 4, 6))
        protocol = rule.protocol or rng.choice((TCP, UDP))
        if rng.random() < 0.05:
            protocol = rng.choice((TCP, UDP, ICMP if version == 4 else ICMPV6))
        port = rule.port if rule.port and rng.random() < 0.9 else rng.choice((*self._ports, VXLAN_PORT))
        ports = [port, rng.randrange(1024, 65536)]
        hosts = rng.sample(NETWORKS4 if version == 4 else NETWORKS6, 2)
        rng.shuffle(ports)
        return partial(
            self._frame,
            version=version,
            protocol=protocol,
            ports=ports,
            hosts=hosts,
            tags=rng.choice(((), (), (0x8100,), (0x88A8, 0x8100), (0x9100, 0x8100))),
            tos=rng.choice((0, 0, 0, 1, 0x10, 0xB8)),
            tunnels=rng.sample(list(TUNNELS), rng.choice((1, 1, 2))) if rng.random() < 0.1 else (),
        )

    def _frame(
        self,
        payload: bytes,
        *,
        version: int,
        protocol: int,
        ports: Sequence[int],
        hosts: Sequence[str],
        tags: Sequence[int],
        tos: int,
        tunnels: Sequence[str],
        answer: bool = False,
    ) -> bytes:
        rng, step = self.rng, -1 if answer else 1
        (sport, dport), (source, destination) = ports[::step], hosts[::step]
        if protocol in (TCP, UDP):
            options = b"\1\1\x08\x0a" + bytes(8) if protocol == TCP and rng.random() < 0.3 else b""
            transport = (
                tcp(payload, sport=sport, dport=dport, options=options)
                if protocol == TCP
                else udp(payload, sport=sport, dport=dport)
            )
        else:
            transport = icmp(payload, kind=8 if protocol == ICMP else 128)
        if version == 4:
            packet = ipv4(
                protocol,
                transport,
                options=b"\1" * rng.choice((4, 40)) if rng.random() < 0.1 else b"",
                fragment=rng.choice((MORE_FRAGMENTS, MORE_FRAGMENTS | 9, 9)) if rng.random() < 0.05 else 0,
                tos=tos,
                source=source,
                destination=destination,
            )
        else:
            kinds = (HOP_HEADER, ROUTING_HEADER, DESTINATION_HEADER, AH_HEADER, FIRST, LAST)
            headers = rng.sample(kinds, rng.randint(1, 3)) if rng.random() < 0.15 else ()
            packet = ipv6(
                *extended(headers, protocol, transport),
                traffic_class=tos,
                source=source,
                destination=destination,
            )
        ethertype, packet = tunnelled(tunnels, IPV4 if version == 4 else IPV6, packet)
        frame = ethernet(ethertype, packet, tags, padding=bytes(rng.choice((0, 0, 0, 9))))
        return frame[: rng.randrange(SMALLEST_FRAME, len(frame))] if rng.random() < 0.02 else frame

    def long_flow(self, payloads: Sequence[tuple[bytes, Rule]], packets: int) -> Iterator[bytes]:
        """Yield a flow of many packets in both directions: junk, HTTP, text that rules match, or nothing."""
        rng = self.rng
        make = self.flow(rng.choice(payloads)[1])
        while VXLAN_PORT in make.keywords["ports"]:  # one direction is counted here, the other in the kernel
            make = self.flow(rng.choice(payloads)[1])
        for _ in range(packets):
            payload = rng.choice((b"", b"junk", HTTP, mutated(HTTP, rng), rng.choice(payloads)[0]))
            payload = payload[:3000] + rng.choice((b"", b"", b" " * 1500))
            yield make(payload[:3000], answer=rng.random() < 0.4)
