"""Records of a perf ring (``batch.c``): a walk stays inside the ring, and finds whole samples only."""

from __future__ import annotations

import random
import struct

import numpy as np

from sensor import abi, native
from tests.fuzz.rounds import Round

RINGS = 1500
SAMPLE, LOST = 9, 2
HEADER_BYTES = 12
META = abi.FRAME_META


def fuzz(one: Round) -> None:
    """Walk over rings of random records, sound and damaged."""
    for _ in range(RINGS):
        size = one.rng.choice((64, 512, 4096))
        ring = _random_ring(size, one.rng)
        memory = np.frombuffer(ring, np.uint8).copy()  # which is guarded
        position = 8 * one.rng.randrange(size // 8) if one.rng.random() < 0.3 else 0
        limit = one.rng.randrange(position, size + 1, 8)
        capacity = one.rng.choice((1, 3, 4096))
        raw, meta, end = native.walk_records(int(memory.ctypes.data), position, limit, size, META, capacity)
        expected, expected_end = _walk(ring, position, limit, capacity)
        one.comparisons += 1 + len(raw)
        if (raw.tolist(), end) != (expected, expected_end):
            one.fault(f"{raw.tolist()} to {end} instead of {expected} to {expected_end}", ring_bin=ring)
        elif meta.tobytes() != b"".join(ring[at : at + META.itemsize] for at in expected):
            one.fault(f"metadata of {expected} differs", ring_bin=ring)


def _random_ring(size: int, rng: random.Random) -> bytes:
    ring = bytearray()
    while len(ring) < size:
        kind = rng.choice((SAMPLE, SAMPLE, SAMPLE, LOST, rng.getrandbits(32)))
        length = rng.choice((8, 24, HEADER_BYTES + META.itemsize, 120, 200, rng.randrange(300)))
        length = -(-length // 8) * 8 if rng.random() < 0.97 else length
        if rng.random() < 0.02:
            length = rng.choice((0, 1, 65_528, 65_535))
        record = struct.pack("=IHHI", kind, 0, length, rng.getrandbits(32)) + rng.randbytes(600)
        ring += record[: max(8, min(length, 600))]
    return bytes(ring[:size])


def _walk(ring: bytes, position: int, limit: int, capacity: int) -> tuple[list[int], int]:
    """Return the offsets of the samples, and where the walk ends, as the documentation says."""
    found: list[int] = []
    while position < limit and len(found) < capacity:
        kind, length = struct.unpack_from("=I2xH", ring, position)
        if length == 0 or length % 8 or position + length > len(ring):
            break
        if kind == SAMPLE:
            if length < HEADER_BYTES + META.itemsize:
                break
            found.append(position + HEADER_BYTES)
        position += length
    return found, position
