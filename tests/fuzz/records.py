"""Records of evidence files (``records.c``): they have the bytes that the format says."""

from __future__ import annotations

import struct

import numpy as np

from sensor.native.records import HEADER_BYTES, copy_records, write_records
from tests.fuzz.rounds import Round

BATCHES = 2000
SECOND_NS = 1_000_000_000


def fuzz(one: Round) -> None:
    """Write and copy records of random frames."""
    rng = one.rng
    for _ in range(BATCHES):
        data = rng.randbytes(rng.randrange(1, 3000))
        frames = []
        for _ in range(rng.randrange(20)):
            start = rng.randrange(len(data))
            size = rng.choice((0, 1, len(data) - start, rng.randrange(len(data) - start + 1)))
            frames.append((start, size, rng.getrandbits(32), rng.randrange(SECOND_NS << 32)))
        expected = [
            struct.pack("<IIII", time_ns // SECOND_NS, time_ns % SECOND_NS // 1000, size, wirelen)
            + data[start : start + size]
            for start, size, wirelen, time_ns in frames
        ]
        columns = np.array(frames, object).reshape(-1, 4)
        start, size, wirelen, time_ns = (
            columns[:, number].astype(kind)
            for number, kind in enumerate((np.int64, np.uint32, np.uint32, np.int64))
        )
        found = write_records(np.frombuffer(data, np.uint8).copy(), start, size, wirelen, time_ns)
        if found.tobytes() != b"".join(expected):
            one.fault(f"records differ: {frames}", data_bin=data, found_bin=found.tobytes())
        ends = np.cumsum(size + np.uint32(HEADER_BYTES), dtype=np.uint32)
        chosen = sorted(rng.sample(range(len(frames)), rng.randrange(len(frames) + 1)))
        sizes = (size + np.uint32(HEADER_BYTES)).astype(np.uint32)[chosen]
        copied = copy_records(found, (ends[chosen] - sizes).astype(np.uint32), sizes)
        if copied.tobytes() != b"".join(expected[number] for number in chosen):
            one.fault(f"copied records differ: {frames} {chosen}", data_bin=data)
        one.comparisons += len(frames) + len(chosen) + 2
