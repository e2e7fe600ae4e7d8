"""Which packets belong to one flow, and when a flow ends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import inf

import numpy as np
import pytest
from numpy.typing import NDArray

from sensor.decode import decode
from sensor.rules.engine.flows import FlowHash, FlowTable
from tests import frames

S = 1_000_000_000


def keys(*packets: bytes, tos: bool = False) -> list[int]:
    """Return the flow numbers of frames."""
    batch = frames.batch_of(packets)
    buffer = np.frombuffer(batch.buffer, np.uint8)
    numbers: list[int] = FlowHash(tos).keys(buffer, decode(batch), np.arange(len(packets))).tolist()
    return numbers


def packet(
    source: str = "10.0.0.1",
    destination: str = "10.0.0.2",
    sport: int = 1000,
    dport: int = 80,
    *,
    tos: int = 0,
    tags: tuple[int, ...] = (),
    udp: bool = False,
) -> bytes:
    """Return an IPv4 frame with payload."""
    segment = (frames.udp if udp else frames.tcp)(b"payload", sport=sport, dport=dport)
    protocol = frames.UDP if udp else frames.TCP
    header = frames.ipv4(protocol, segment, tos=tos, source=source, destination=destination)
    return frames.ethernet(frames.IPV4, header, tags)


def test_both_directions_are_one_flow() -> None:
    """Source and destination may be swapped, addresses and ports together."""
    there, back, crossed = keys(
        packet("10.0.0.1", "10.0.0.2", 1000, 80),
        packet("10.0.0.2", "10.0.0.1", 80, 1000),
        packet("10.0.0.1", "10.0.0.2", 80, 1000),
    )
    assert there == back != crossed


def test_ipv6_flows() -> None:
    """Both addresses count in full."""

    def ipv6(source: str, destination: str, sport: int, dport: int) -> bytes:
        segment = frames.tcp(b"payload", sport=sport, dport=dport)
        return frames.ethernet(
            frames.IPV6, frames.ipv6(frames.TCP, segment, source=source, destination=destination)
        )

    there, back, other = keys(
        ipv6("2001:db8::1", "2001:db8::2", 1000, 80),
        ipv6("2001:db8::2", "2001:db8::1", 80, 1000),
        ipv6("2001:db8:1::1", "2001:db8::2", 1000, 80),
    )
    assert there == back != other


@pytest.mark.parametrize(
    "other",
    [
        packet("10.0.0.3"),
        packet(destination="10.0.0.3"),
        packet(sport=1001),
        packet(dport=81),
        packet("10.0.0.0", sport=1001),
        packet(udp=True),
        packet(tags=(0x8100,)),
        packet(tags=(0x8100, 0x8100)),
    ],
)
def test_flows_differ_by_endpoints_protocol_and_vlans(other: bytes) -> None:
    """A packet with another address, port, protocol or VLAN belongs to another flow."""
    first, second = keys(packet(), other)
    assert first != second


def test_type_of_service() -> None:
    """With ``tos``, a packet with a type of service belongs to a flow of its direction and service."""
    there, back = packet(tos=0x10), packet("10.0.0.2", "10.0.0.1", 80, 1000, tos=0x10)
    assert len(set(keys(packet(), there, back))) == 1
    assert len(set(keys(packet(), there, back, tos=True))) == 3
    assert len(set(keys(packet(), packet(tos=1), tos=True))) == 1
    assert len(set(keys(there, there, tos=True))) == 1


def numbers(table: FlowTable, seconds: Iterable[int]) -> list[int]:
    """Count a packet of one flow at each of these times, and return the packets' numbers in the flow."""
    now_ns = np.array([second * S for second in seconds], np.int64)
    counted = np.zeros(len(now_ns), np.int64)
    table.count(np.full(len(now_ns), 7, np.uint64), counted, np.zeros_like(counted), now_ns)
    found: list[int] = counted.tolist()
    return found


def test_a_flow_ends_when_it_is_idle() -> None:
    """A flow ends after half a minute without a packet; each packet starts the time again."""
    assert numbers(FlowTable(30, 120), (0, 30, 60, 91)) == [1, 2, 3, 1]


def test_a_flow_ends_after_its_life() -> None:
    """However busy, a flow ends after two minutes, and counting starts again."""
    assert numbers(FlowTable(30, 120), range(0, 151, 10)) == [*range(1, 14), 1, 2, 3]


def test_flows_without_end() -> None:
    """With infinite times a flow never ends."""
    assert numbers(FlowTable(inf, inf), (0, 10_000, 10**9)) == [1, 2, 3]


def test_time_may_go_back() -> None:
    """The rings of several CPUs have no common order: an earlier packet still belongs to the flow."""
    assert numbers(FlowTable(30, 120), (100, 95, 128, 99, 129)) == [1, 2, 3, 4, 5]


def test_the_kernels_numbers_are_kept() -> None:
    """A packet that the kernel has numbered keeps its number; a flow that began anew has a new serial."""
    table = FlowTable(30, 120)
    kernels, born = np.array([5, 6, 1], np.int64), np.array([100, 100, 900], np.int64)
    serials = table.count(np.full(3, 7, np.uint64), kernels, born, np.zeros(3, np.int64))
    assert kernels.tolist() == [5, 6, 1]
    assert serials[0] == serials[1] != serials[2]


def test_the_least_recently_used_flows_are_dropped() -> None:
    """The table holds two generations of half a million flows; a flow seen in either of them is kept."""
    table = FlowTable(inf, inf)
    busy = np.array([1 << 40], np.uint64)

    def count(keys: NDArray[np.uint64]) -> list[int]:
        counted = np.zeros(len(keys), np.int64)
        table.count(keys, counted, np.zeros_like(counted), np.zeros_like(counted))
        found: list[int] = counted.tolist()
        return found

    rng = np.random.default_rng(1)
    scans = rng.integers(1, 1 << 63, (20, 100_000), np.uint64)
    for number, scan in enumerate(scans, 1):
        assert count(busy) == [number]
        assert set(count(scan)) == {1}
    assert set(count(scans[-1])) == {2}
    assert set(count(scans[0])) == {1}


def test_generations_are_shared_with_a_forked_process() -> None:
    """The worker that replaces another one continues with its flows."""
    table = FlowTable(30, 120)
    child = os.fork()
    if child == 0:
        numbers(table, [0, 1])
        os._exit(0)
    os.waitpid(child, 0)
    assert numbers(table, [2]) == [3]
    assert numbers(table.empty_copy(), [2]) == [1]
