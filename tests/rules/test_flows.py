"""Which packets belong to one flow, and when a flow ends."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

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


def test_a_flow_ends_when_it_is_idle() -> None:
    """A flow ends after half a minute without a packet; each packet starts the time again."""
    table = FlowTable(30, 120)
    assert [table.count(1, second * S).packets for second in (0, 30, 60, 91)] == [1, 2, 3, 1]


def test_a_flow_ends_after_its_life() -> None:
    """However busy, a flow ends after two minutes, and counting starts again."""
    table = FlowTable(30, 120)
    assert [table.count(1, second * S).packets for second in range(0, 151, 10)] == [*range(1, 14), 1, 2, 3]


def test_flows_without_end() -> None:
    """With infinite times a flow never ends."""
    table = FlowTable(inf, inf)
    assert [table.count(1, second * S).packets for second in (0, 10_000, 10**9)] == [1, 2, 3]


def test_time_may_go_back() -> None:
    """The rings of several CPUs have no common order: an earlier packet still belongs to the flow."""
    table = FlowTable(30, 120)
    assert [table.count(1, second * S).packets for second in (100, 95, 128, 99, 129)] == [1, 2, 3, 4, 5]


def test_the_least_recently_used_flows_are_dropped() -> None:
    """The table holds two generations; a flow seen in either of them is kept."""
    table = FlowTable(inf, inf, capacity=10)
    for key in range(1, 100):
        table.count(key, 0)
        table.count(0, 0)
    assert len(table) <= 20
    assert table.count(0, 0).packets == 100
    assert table.count(50, 0).packets == 1
