"""Packets of flows, and what the kernel counts of them, for tests of its flow table."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from frames import IPV4, IPV6, TCP, ethernet, ipv4, ipv6, tcp

from sensor import abi
from sensor.abi import Counter
from sensor.capture.flow_table import FlowKey, flow_key
from sensor.capture.program import Program
from sensor.capture.syscalls import prog_test_run

CLOCK_MONOTONIC_COARSE = 6  # moves with the kernel's ticks; linux/time.h
ONE_SET = abi.FLOW_WAYS
DATA = b"\x17\x03\x03 some data"
LOW, HIGH = "192.0.2.10", "198.51.100.20"
LOW6, HIGH6 = "2001:db8::10", "2001:db8:1::20"
Open = Callable[..., Program]
CANDIDATE, CUT = Counter.SUBMIT_FAILED, Counter.IGNORED_FLOW


def bucket(program: Program, frame: bytes) -> Counter:
    """Return the bucket of a frame. Candidates are in SUBMIT_FAILED, because there is no ring."""
    before = program.counters()
    prog_test_run(program.fd, frame)
    after = program.counters()
    [found] = [one for one in Counter if one != Counter.SEEN and after[one] != before[one]]
    return found


def buckets(program: Program, frame: bytes, times: int) -> list[Counter]:
    """Return the buckets of a frame that is sent several times."""
    return [bucket(program, frame) for _ in range(times)]


def packet4(sport: int = 40000, dport: int = 443, payload: bytes = DATA, **ip: Any) -> bytes:
    """Make a frame with a TCP segment over IPv4."""
    return ethernet(IPV4, ipv4(TCP, tcp(payload, sport=sport, dport=dport), **ip))


def key4(sport: int = 40000, dport: int = 443, source: str = LOW, destination: str = HIGH) -> FlowKey:
    """Return the key of such a frame's flow."""
    return flow_key(TCP, ip_address(source), ip_address(destination), sport, dport)


def packets(program: Program, key: FlowKey) -> int:
    """Return the number of packets that the kernel has counted, 0 if it does not remember the flow."""
    flow = program.flow(key)
    return flow.packets if flow else 0


def wait(seconds: float) -> None:
    """Wait until the kernel's coarse clock has moved on by more than ``seconds``."""
    end_ns = time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) + round(seconds * 10**9)
    while time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) <= end_ns:
        time.sleep(0.001)


def flow_of(source: Any, destination: Any, port: int = 1) -> tuple[bytes, FlowKey]:
    """Make a frame, and return it with the key of its flow."""
    source, destination = ip_address(source), ip_address(destination)
    inner, ends = tcp(DATA, sport=port, dport=9), {"source": str(source), "destination": str(destination)}
    packet = (ipv4 if source.version == 4 else ipv6)(TCP, inner, **ends)
    return ethernet(IPV4 if source.version == 4 else IPV6, packet), flow_key(
        TCP, source, destination, port, 9
    )


def tag_of(program: Program, key: FlowKey) -> int:
    """Return the tag by which the kernel finds a flow inside a set."""
    return program._shared.flows.hash(key) & 0xFF or 1
