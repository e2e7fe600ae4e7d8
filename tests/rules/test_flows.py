"""Which packets belong to one flow, and when a flow ends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import inf

import numpy as np
import pytest
from numpy.typing import NDArray

from sensor.decode import decode
from sensor.errors import SensorError
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


def numbers(table: FlowTable, seconds: Iterable[float]) -> list[int]:
    """Count a packet of one flow at each of these times, and return the packets' numbers in the flow."""
    now_ns = np.array([min(int(second * S), (1 << 63) - 1) for second in seconds], np.int64)
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


def test_a_packet_from_well_before_begins_a_new_flow() -> None:
    """Files that are read out of order, and a clock that is set back, do not continue a later flow."""
    assert numbers(FlowTable(30, 120), (3600, 3601, 3570, 0, 1, 3600)) == [1, 2, 1, 1, 2, 1]


def test_a_time_beyond_all_others_ends_no_flow_for_good() -> None:
    """The flow of a packet whose time did not fit 64 bits takes no packet of another time."""
    end_s = ((1 << 63) - 1) / S
    assert numbers(FlowTable(30, 120), (0, end_s, 1, 2, -end_s, 3)) == [1, 1, 1, 2, 1, 1]


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


JOURNAL_BYTES = 8 + (1 << 15) * 80
"""The end of the table's memory, ``struct journal``."""


def memory_of(table: FlowTable) -> NDArray[np.uint8]:
    """Return all that a table knows about flows."""
    return np.frombuffer(table._memory._map, np.uint8)[:-JOURNAL_BYTES]


def use(table: FlowTable, frame_keys: Iterable[int], first_position: int | None, labelled: int) -> None:
    """Count the frames of a batch, and label the flows of the first ones; each frame is 8 bytes long."""
    keys = np.array(list(frame_keys), np.uint64)
    zeros = np.zeros(len(keys), np.int64)
    positions = None
    if first_position is not None:
        positions = (first_position + 8 * np.arange(len(keys))).astype(np.uint64)
    serials = table.count(keys, zeros.copy(), zeros, zeros, positions)
    matches = np.ones(labelled, np.uint8)
    table._memory.select(
        serials[:labelled],
        np.zeros(8, np.uint8),
        np.zeros(labelled, np.int64),
        np.full(labelled, 4, np.uint8),
        np.arange(labelled + 1),
        matches,
        matches,
        None if positions is None else positions[:labelled],
        by_flow=True,
        once=True,
        all_classes=31,
        threat=16,
        wanted=31,
    )


@pytest.mark.parametrize("reported", [0, 1, 50, 99, 100])
@pytest.mark.parametrize("labelled", [0, 40, 100])
def test_frames_that_were_not_reported_leave_no_trace(reported: int, labelled: int) -> None:
    """A worker that dies counts and labels nothing for the frames that its successor sees again."""
    ring, tail = 3, 8000
    known, batch = [1, 2, 3, 1 << 63], [key % 17 for key in range(100)]
    died, expected = FlowTable(inf, inf), FlowTable(inf, inf)
    for table in (died, expected):
        table.begin_batch(ring)
        use(table, known, tail - 800, len(known))
        table.begin_batch(ring)
    use(died, batch, tail, labelled)
    died.undo(ring + 1, tail)  # another ring's batches were all reported
    died.undo(ring, tail + 8 * reported)
    use(expected, batch[:reported], tail, min(labelled, reported))
    assert np.array_equal(memory_of(died), memory_of(expected))
    died.undo(ring, 0)  # nothing is undone twice
    assert np.array_equal(memory_of(died), memory_of(expected))


def test_a_generation_that_ends_in_a_batch() -> None:
    """Changes in both generations are undone, but flows that were dropped stay so."""
    table = FlowTable(inf, inf)
    rng = np.random.default_rng(1)
    use(table, rng.integers(1, 1 << 63, (1 << 19) - 4000, np.uint64).tolist(), None, 0)
    generation = memory_of(table)[0]
    table.begin_batch(0)
    batch = [7, *rng.integers(1, 1 << 63, 8190, np.uint64).tolist(), 7]
    for _ in range(5):
        use(table, batch, 8, 0)
        table.undo(0, 0)
        assert memory_of(table)[0] != generation
    zero = np.zeros(2, np.int64)
    counted = zero.copy()
    table.count(np.array([7, 7], np.uint64), counted, zero, zero)
    assert counted.tolist() == [1, 2]


def test_the_journal_is_never_left() -> None:
    """More changes than it has room for are made, and not kept."""
    table = FlowTable(inf, inf)
    table.begin_batch(0)
    for number in range(10):
        use(table, range(number * 8000, number * 8000 + 8000), 8, 8000)
    table.undo(0, 0)


def test_the_size_of_the_journal() -> None:
    """The tests above look at everything else."""
    table = FlowTable(inf, inf)
    table.begin_batch(7)
    assert table._memory._map[-JOURNAL_BYTES] == 7


def test_packets_outside_of_the_batch_are_refused() -> None:
    """No byte behind the frames or the columns is read."""
    batch = frames.batch_of([packet(), packet()])
    buffer, packets = np.frombuffer(batch.buffer, np.uint8), decode(batch)
    flows = FlowHash(tos=False)
    assert len(flows.keys(buffer, packets, np.array([1, 0]))) == 2
    for position in (-1, 2):
        with pytest.raises(SensorError, match="outside of its batch"):
            flows.keys(buffer, packets, np.array([0, position]))
    for offset in (-1, len(buffer) - 7, 1 << 62):
        packets.source_offset[1] = offset
        with pytest.raises(SensorError, match="outside of its batch"):
            flows.keys(buffer, packets, np.array([1]))
