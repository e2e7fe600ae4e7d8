"""Blocks of evidence as bytes: damage raises only the named error, and a block that passes is safe to use."""

from __future__ import annotations

import random
from contextlib import closing

import numpy as np
from evidence_queries import random_items
from numpy.typing import NDArray

from sensor.evidence.block import ITEM, EvidenceBlock, block_of_objects
from sensor.evidence.block_codec import MalformedBlockError, block_bytes, decode_block, encode_block
from sensor.evidence.explain_block import explained
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.pcap import RECORD_HEADER_BYTES
from sensor.evidence.search import EvidenceSearch, Query
from sensor.rules.engine.http_payload import RFC9110
from tests.fuzz.rounds import Round

BLOCKS = 2000
STORED = 20
"""Blocks of a round that are also written and found again."""
_FIELDS = [(ITEM.fields[name][1], ITEM.fields[name][0].itemsize) for name in ITEM.names or ()]
_VALUES = (0, 1, 2, 16, 60, 255, 65535, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)


def fuzz(one: Round) -> None:
    """Decode damaged blocks, and use those that pass."""
    items = random_items(40, seed=one.rng.getrandbits(30))
    stored = 0
    for number in range(BLOCKS):
        first = one.rng.randrange(len(items))
        block = block_of_objects(items[first : first + one.rng.choice((0, 1, 3, 12))])
        sizes = [len(block), len(block.rules), len(block.records)]
        data = encoded(block)
        if one.rng.random() < 0.95:
            data = damaged(data, len(block), one.rng)
        if one.rng.random() < 0.1:
            sizes[one.rng.randrange(3)] += one.rng.choice((-1, 1, -(1 << 31), 1 << 31, -len(data), len(data)))
        with one.no_other_error(MalformedBlockError, block_bin=data.tobytes(), sizes_txt=repr(sizes)):
            back = decode_block(data, *sizes, block.rule_set)
            use(back)
            if stored < STORED:
                stored += 1
                _store(one, back, number)
        one.comparisons += 1


def encoded(block: EvidenceBlock) -> NDArray[np.uint8]:
    """Return the bytes of a block."""
    data = np.zeros(block_bytes(len(block), len(block.rules), len(block.records)), np.uint8)
    encode_block(block, data)
    return data


def damaged(data: NDArray[np.uint8], items: int, rng: random.Random) -> NDArray[np.uint8]:
    """Return the bytes of a block with a few bytes or whole fields changed; or others instead of them."""
    if rng.random() < 0.02 or not len(data):
        return np.frombuffer(rng.randbytes(len(data)), np.uint8)
    data = data.copy()
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if items and rng.random() < 0.6:
            offset, size = rng.choice(_FIELDS)
            at = rng.randrange(items) * ITEM.itemsize + offset
            value = rng.choice((*_VALUES, rng.getrandbits(64)))
            data[at : at + size] = list((value % (1 << 8 * size)).to_bytes(size, "little"))
        else:
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0xFF, rng.randrange(256)))
    return data


def use(block: EvidenceBlock) -> None:
    """Read everything in a block that refers to something else."""
    records, items = block.records.tobytes(), block.items
    for position, one in enumerate(items):
        start = int(one["record"])
        assert start + RECORD_HEADER_BYTES + int(one["caplen"]) <= len(records)
        assert len(block.frame(position)) == int.from_bytes(records[start + 8 : start + 12], "little")
        assert len(block.rules_of(position)) == one["matches"]
        assert one["payload_start"] <= one["payload_end"] <= one["caplen"]
    assert sum(block.class_counts().values()) >= np.count_nonzero(items["matches"])
    assert len(block.vlans()) == len(list(block.five_tuples())) == len(items)
    assert len(list(explained(block, RFC9110))) == len(items)
    parts = [block.part(at, at + 1) for at in range(len(block))]
    assert b"".join(part.records.tobytes() for part in parts) == records
    block.select(items["matches"] > 0)


def _store(one: Round, block: EvidenceBlock, number: int) -> None:
    """Write a block to a directory of its own; what is written is found."""
    directory = one.directory / str(number)
    with closing(IndexedWriter(directory, 3)) as writer:
        writer.write(block)
        written = writer.written + writer.context_written
        assert written + writer.write_failed + writer.context_failed == len(block)
        writer.tick(0)
    assert len(list(EvidenceSearch(directory).iterate(Query()))) == written
