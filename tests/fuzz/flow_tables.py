"""The flow table (``flows.c``): it counts and labels like a simple table, and stays inside its memory.

The memory of a table may hold anything, because a worker that was taken over leaves it to the next one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from sensor.native import flow_memory
from sensor.native.flow_memory import FlowMemory
from tests.fuzz.rounds import Round

BATCHES = 200
FOREVER_NS = (1 << 63) - 1
ALL_CLASSES, THREAT = 0b11111, 0b10000
_COUNTERS_BYTES = 16
"""The table's own counters, which say where everything else is."""


@dataclass
class SimpleFlow:
    """A flow of the reference table."""

    serial: int
    idle_end_ns: int
    expires_ns: int
    born: int = 0
    packets: int = 1
    classes: int = 0
    answered: bool = False
    source: bytes = b""


class SimpleTable:
    """The same as the flow table, for few flows, one packet at a time."""

    def __init__(self, idle_ns: int, life_ns: int) -> None:
        self._idle_ns, self._life_ns = idle_ns, life_ns
        self._flows: dict[int, SimpleFlow] = {}
        self._serials = 0
        self.by_serial: dict[int, SimpleFlow] = {}

    def count(self, key: int, number: int, born: int, now_ns: int) -> tuple[int, int]:
        """Return the packet's number and the serial number of its flow."""
        flow = self._flows.get(key)
        if number:
            if flow is None or (flow.born and flow.born != born):
                flow = self._start(key, FOREVER_NS, FOREVER_NS)
            flow.born = born
        elif flow is None or self._is_other(flow, now_ns):
            ends = (min(now_ns + more, FOREVER_NS) for more in (self._idle_ns, self._life_ns))
            flow, number = self._start(key, *ends), 1
        else:
            flow.idle_end_ns = max(flow.idle_end_ns, min(now_ns + self._idle_ns, FOREVER_NS))
            flow.packets += 1
            number = flow.packets
        return number, flow.serial

    def _is_other(self, flow: SimpleFlow, now_ns: int) -> bool:
        if flow.idle_end_ns != FOREVER_NS and abs(flow.idle_end_ns - self._idle_ns - now_ns) > self._idle_ns:
            return True
        return now_ns > flow.expires_ns

    def _start(self, key: int, idle_end_ns: int, expires_ns: int) -> SimpleFlow:
        self._serials += 1
        flow = SimpleFlow(self._serials, idle_end_ns, expires_ns)
        self._flows[key] = self.by_serial[self._serials] = flow
        return flow


def fuzz(one: Round) -> None:
    """Compare a table with the reference; then fill its memory with garbage, and use it."""
    with patch.object(flow_memory.mmap, "mmap", lambda _fd, size: bytearray(size)):  # which is guarded
        memory = FlowMemory()
    idle_ns, life_ns = one.rng.choice(((30, 120), (5, FOREVER_NS), (FOREVER_NS, FOREVER_NS), (0, 0)))
    simple, now_ns = SimpleTable(idle_ns, life_ns), 0
    for _ in range(BATCHES):
        now_ns = max(0, now_ns + one.rng.choice((0, 3, 40, -10)))
        _compare(one, memory, simple, idle_ns, life_ns, now_ns)
        if one.faults:
            return
    for _ in range(BATCHES // 4):
        _fill_with_garbage(memory, one.rng)
        memory.undo(one.rng.randrange(2), one.rng.getrandbits(64))
        keys = [one.rng.getrandbits(64) for _ in range(200)]
        times = np.array([one.rng.randrange(-(2**63), 2**63) for _ in keys], np.int64)
        numbers = np.array([one.rng.choice((0, 0, 5)) for _ in keys], np.int64)
        serials = memory.count(idle_ns, life_ns, np.array(keys, np.uint64), numbers, times, times)
        _select(memory, serials, *_random_packets(len(keys), one.rng), by_flow=True, once=True, wanted=THREAT)
        one.comparisons += 1


def _compare(
    one: Round, memory: FlowMemory, simple: SimpleTable, idle_ns: int, life_ns: int, now_ns: int
) -> None:
    """Count and label a batch of packets in both tables."""
    rng, size = one.rng, one.rng.randrange(1, 60)
    keys = [
        rng.choice((1, 2, 1 << 20, (1 << 20) + 1, (1 << 64) - 1, rng.getrandbits(64))) for _ in range(size)
    ]
    numbers = [rng.choice((0, 0, 0, 1, 7)) for _ in keys]
    births = [rng.choice((100, 100, 900)) if number else 0 for number in numbers]
    times = [now_ns + rng.randrange(4) for _ in keys]
    packets = _random_packets(size, rng)
    if rng.random() < 0.3:
        _die_in_batch(memory, idle_ns, life_ns, (keys, numbers, births, times), packets, rng)
    expected = [simple.count(*each) for each in zip(keys, numbers, births, times, strict=True)]
    found_numbers = np.array(numbers, np.int64)
    serials = memory.count(
        idle_ns,
        life_ns,
        np.array(keys, np.uint64),
        found_numbers,
        np.array(births, np.int64),
        np.array(times, np.int64),
    )
    found = list(zip(found_numbers.tolist(), serials.tolist(), strict=True))
    if found != expected:
        one.fault(f"counted {found} instead of {expected}: {keys} {numbers} {births} {times}")
        return
    by_flow, once, wanted = rng.random() < 0.5, rng.random() < 0.5, rng.choice((THREAT, ALL_CLASSES))
    kept = _select(memory, serials, *packets, by_flow=by_flow, once=once, wanted=wanted)
    simply = _select_simply(simple, serials.tolist(), *packets, by_flow=by_flow, once=once, wanted=wanted)
    if [column.tolist() for column in kept] != [*simply]:
        one.fault(f"kept {kept} instead of {simply}: {packets} {by_flow=} {once=} {wanted=}")
    one.comparisons += 2 * size


def _die_in_batch(
    memory: FlowMemory,
    idle_ns: int,
    life_ns: int,
    columns: tuple[list[int], ...],
    packets: Packets,
    rng: random.Random,
) -> None:
    """Count and label a batch in the table alone, as a worker that dies does, and undo that."""
    ring, size = rng.randrange(4), len(packets[0])
    keys, numbers, births, times = columns
    positions = np.cumsum([rng.randrange(8, 80, 8) for _ in keys]).astype(np.uint64)
    memory.begin_batch(ring)
    serials = memory.count(
        idle_ns,
        life_ns,
        np.array(keys, np.uint64),
        *(np.array(column, np.int64) for column in (numbers, births, times)),
        positions,
    )
    done = rng.randrange(size + 1)
    addresses, matches = (column[:done] for column in packets)
    flags = {"by_flow": rng.random() < 0.5, "once": rng.random() < 0.5}
    _select(
        memory, serials[:done], addresses, matches, wanted=ALL_CLASSES, positions=positions[:done], **flags
    )
    memory.undo(ring, 0)


Packets = tuple[list[bytes], list[list[tuple[int, int]]]]
"""Both addresses of each packet, and its matches: the bit of each rule's class and bits besides."""


def _random_packets(count: int, rng: random.Random) -> Packets:
    ends = [bytes([number]) * width for width in (4, 16) for number in (1, 2)]
    pairs = (ends[0] + ends[1], ends[1] + ends[0], ends[2] + ends[3], ends[3] + ends[2])
    addresses = rng.choices(pairs, k=count)
    matches = [
        [(1 << rng.randrange(5), rng.choice((0, 0, 4))) for _ in range(rng.choice((0, 0, 1, 2, 3)))]
        for _ in range(count)
    ]
    return addresses, matches


def _select(
    memory: FlowMemory,
    serials: NDArray[np.uint64],
    addresses: list[bytes],
    matches: list[list[tuple[int, int]]],
    *,
    by_flow: bool,
    once: bool,
    wanted: int,
    positions: NDArray[np.uint64] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    sizes = np.array([len(both) for both in addresses], np.int64)
    first = np.append(0, np.cumsum([len(each) for each in matches])).astype(np.int64)
    bits = [pair for each in matches for pair in each]
    return memory.select(
        serials,
        np.frombuffer(b"".join(addresses), np.uint8).copy(),
        np.cumsum(sizes) - sizes,
        (sizes // 2).astype(np.uint8),
        first,
        np.array([bit for bit, _ in bits], np.uint8),
        np.array([also for _, also in bits], np.uint8),
        positions,
        by_flow=by_flow,
        once=once,
        all_classes=ALL_CLASSES,
        threat=THREAT,
        wanted=wanted,
    )


def _select_simply(
    simple: SimpleTable,
    serials: list[int],
    addresses: list[bytes],
    matches: list[list[tuple[int, int]]],
    *,
    by_flow: bool,
    once: bool,
    wanted: int,
) -> tuple[list[bool], list[bool]]:
    """Return what `_select` returns, as the documentation of `FlowTable.label` says."""
    keep_packet, keep_match = [], []
    for serial, both, each in zip(serials, addresses, matches, strict=True):
        flow = simple.by_serial[serial]
        if not by_flow and not each:
            keep_packet.append(False)
            continue
        if flow.classes == ALL_CLASSES:
            keep_packet.append(False)
            keep_match += [False] * len(each)
            continue
        source, destination = both[: len(both) // 2], both[len(both) // 2 :]
        opens = False
        if by_flow and not flow.source:
            flow.source, opens = source, True
        elif by_flow and not flow.answered and flow.source == destination:
            flow.answered = opens = True
        counted = []
        for bit, also in each:
            counts = not once or not flow.classes & bit
            counted.append(counts)
            if once and counts:
                flow.classes |= bit | also
                flow.source = source
                if bit == THREAT:
                    flow.answered = False
        keep_match += counted
        is_wanted = any(counts and bit & wanted for counts, (bit, _) in zip(counted, each, strict=True))
        keep_packet.append(opens if by_flow else is_wanted)
    return keep_packet, keep_match


def _fill_with_garbage(memory: FlowMemory, rng: random.Random) -> None:
    data = memory._map
    for _ in range(500):
        at = rng.randrange(len(data) - 64)
        data[at : at + 64] = rng.choice((rng.randbytes(64), b"\xff" * 64, bytes(64)))
    data[:_COUNTERS_BYTES] = rng.randbytes(_COUNTERS_BYTES)
