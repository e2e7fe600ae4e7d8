"""The table of sources (``sources.c``): it stays inside its memory, and what is shown of it has bounds.

A worker that was taken over can write anything into the table, which the supervisor and the next worker read.
"""

from __future__ import annotations

import random
from unittest.mock import patch

import numpy as np

from sensor.capture.fair_shares import levels_of
from sensor.metrics.costly_sources import CostlySources
from sensor.native import source_table
from sensor.native.source_table import SOURCE, SOURCES, SourceColumns, SourceTable
from tests.fuzz.rounds import Round

BATCHES = 100
SECOND_NS = 1_000_000_000
_WORDS = (
    *(bytes(8), b"\xff" * 8, b"\xff" * 7 + b"\x7f", bytes(7) + b"\x80", bytes(6) + b"\xf0\x7f"),
    *(bytes(6) + b"\xf8\x7f", np.float64(1e300).tobytes(), np.float64(-1).tobytes(), b"\1" + bytes(7)),
)
"""Eight bytes: zero, the limits of integers, infinity, no number, and others."""


def fuzz(one: Round) -> None:
    """Charge and admit packets; from the middle of the round on with garbage in the memory."""
    rng = one.rng
    with patch.object(source_table.mmap, "mmap", lambda _fd, size: bytearray(size)):  # which is guarded
        table = SourceTable()
    now_ns = rng.choice((0, 1 << 40, (1 << 62)))
    for number in range(BATCHES):
        now_ns += rng.choice((0, 1000, SECOND_NS // 8, 61 * SECOND_NS, -SECOND_NS))
        if number > BATCHES // 2:
            _fill_with_garbage(table._map, rng)
            now_ns = rng.choice((now_ns, rng.randrange(-(1 << 63), 1 << 63)))
        data, packets = _random_packets(now_ns, rng)
        costs = np.array([rng.choice((-1, 0, 1000, 10**9, (1 << 63) - 1)) for _ in packets.address], np.int64)
        table.charge(data, packets, costs, is_calm=rng.random() < 0.5)
        kept = table.admit(data, packets, now_ns, *(rng.choice((0.0, 0.01, 1.0)) for _ in range(3)))
        listing = table.listing(now_ns)
        with np.errstate(all="ignore"):
            levels_of(listing, one.rng.random())
        costly = CostlySources([table], clock=lambda: 0.0)
        costly.tick(5)
        one.comparisons += len(kept) + len(costly.figures)
        for source in costly.figures:
            if not (0 <= source.demand <= 1e9 and 0 <= source.matched <= 1):
                one.fault(f"{source} is out of bounds")
        if number <= BATCHES // 2 and listing.offered.sum() < listing.matched.sum():
            one.fault(
                f"more packets matched than offered: {listing.matched.sum()} of {listing.offered.sum()}"
            )


def _random_packets(now_ns: int, rng: random.Random) -> tuple[np.ndarray, SourceColumns]:
    """Return packets that lie one after the other, the last one at the end of its memory."""
    versions = [rng.choice((4, 4, 6)) for _ in range(rng.randrange(1, 200))]
    sizes = np.array([8 if version == 4 else 32 for version in versions], np.int64)
    network = rng.choice((b"\x0a", b"\x0a\1\2", b""))
    ends = [(network + rng.randbytes(16))[: size // 2] for size in sizes.tolist() for _ in range(2)]
    count = len(versions)
    times = [min(max(now_ns + rng.choice((0, 0, -1000, 50)), -(1 << 63)), (1 << 63) - 1) for _ in versions]
    return np.frombuffer(b"".join(ends), np.uint8).copy(), SourceColumns(
        np.cumsum(sizes) - sizes,
        np.array(versions, np.uint8),
        np.array(rng.choices((80, 443, 50_000), k=count), np.uint16),
        np.array(rng.choices((80, 443, 50_000), k=count), np.uint16),
        np.array(times, np.int64),
    )


def _fill_with_garbage(memory: bytearray, rng: random.Random) -> None:
    for _ in range(200):
        at = rng.choice((0, rng.randrange(SOURCES))) * SOURCE.itemsize + 8 * rng.randrange(20)
        memory[at : at + 8] = rng.choice((*_WORDS, rng.randbytes(8)))[: max(0, len(memory) - at)]
