"""The history (``frame_history.c``): it gives back what was put in, and damaged memory harms nobody."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.native.frame_history import (
    CheckedFrames,
    FileHistory,
    HistoryColumns,
    HistoryEnd,
    HistoryFrames,
    HistoryReader,
)
from tests.fuzz.rounds import Round

BATCHES = 60
DAMAGES = 400
DAMAGES_EACH = 20
"""The number of damages to one memory, until it is written anew."""
CHUNKS = 2
_NS = 1_000_000_000


def fuzz(one: Round) -> None:
    """Remember random frames and compare; then read memory that was damaged at random."""
    _compare(one)
    _damage(one)


def _compare(one: Round) -> None:
    rng = one.rng
    history = FileHistory(1, flow_kib := rng.choice((1, 20, 1024)), 30, 120)
    flows = [rng.getrandbits(64) for _ in range(rng.choice((1, 5, 200)))]
    expected: dict[int, list[bytes]] = {flow: [] for flow in flows}
    sizes = dict.fromkeys(flows, 0)
    for second in range(BATCHES):
        frames = [rng.randbytes(rng.choice((0, 1, 60, 1514, rng.randrange(4000)))) for _ in range(60)]
        chosen = [rng.choice(flows) for _ in frames]
        columns = _columns(frames, chosen, time_ns=second * _NS // 10)
        history.write(CheckedFrames(columns), 0, len(frames))
        for frame, flow in zip(frames, chosen, strict=True):
            if sizes[flow] < flow_kib << 10:
                sizes[flow] += len(frame)
                expected[flow].append(frame)
        flow = rng.choice(flows)
        found = history.collect(flow)
        one.comparisons += 1
        texts = _frames_of(found)
        kept = expected[flow][len(expected[flow]) - len(texts) :] if texts else []
        is_whole = len(texts) == len(expected[flow])
        if texts != kept or is_whole != (found.end == HistoryEnd.WHOLE):
            one.fault(f"{len(texts)} frames instead of {len(expected[flow])}, and {found.end.name}")
            return


def _columns(frames: list[bytes], flows: list[int], time_ns: int) -> HistoryColumns:
    sizes = np.array(list(map(len, frames)), np.int64)
    return HistoryColumns(
        data=np.frombuffer(b"".join(frames) or b"\0", np.uint8),
        start=np.cumsum(sizes) - sizes,
        caplen=sizes,
        wirelen=sizes,
        time_ns=np.full(len(frames), time_ns, np.int64),
        ifindex=np.zeros(len(frames), np.uint32),
        flow=np.array(flows, np.uint64),
        tcp_flags=np.zeros(len(frames), np.uint8),
    )


def _frames_of(found: HistoryFrames) -> list[bytes]:
    records = found.records
    return [
        found.data[start : start + size].tobytes()
        for start, size in zip(records["start"].tolist(), records["caplen"].tolist(), strict=True)
    ]


def _damage(one: Round) -> None:
    """Walk through records that point anywhere; the memory is guarded."""
    rng = one.rng
    for number in range(DAMAGES):
        if number % DAMAGES_EACH == 0:
            chunks, heads = np.zeros(CHUNKS, abi.HISTORY_CHUNK), np.zeros(1, abi.HISTORY_HEADS)
            places = _write_chain(rng, chunks, heads)
        _spoil(rng, chunks, heads, places)
        reader = HistoryReader(
            chunks.view(np.uint8).data,
            heads.view(np.uint8).data,
            most_records=rng.choice((1, 10, 4096)),
            most_bytes=rng.choice((1, 1514, 1 << 20)),
            most_steps=rng.choice((0, 1, 1 << 20, 1 << 20)),
        )
        found = reader.collect(0, rng.choice((0, 0, 3)))
        one.comparisons += 1
        ends = found.records["start"] + found.records["caplen"]
        if (ends > len(found.data)).any():
            one.fault("a frame ends outside of the bytes that were copied")
            return
        if (found.records["position"][:-1] >= found.records["position"][1:]).any():
            one.fault("a record was read twice")
            return


def _write_chain(rng: random.Random, chunks: NDArray[np.void], heads: NDArray[np.void]) -> list[int]:
    """Write one chain of records with hash 0 through all chunks; return their places in the memory."""
    memory, places, previous = chunks.view(np.uint8), [], 0
    chunks["number"] = range(CHUNKS, 2 * CHUNKS)
    for number in range(CHUNKS):
        offset = 16
        while offset < abi.HISTORY_CHUNK_BYTES - 9000:
            place = number * abi.HISTORY_CHUNK_BYTES + offset
            record = memory[place : place + abi.HISTORY_RECORD.itemsize].view(abi.HISTORY_RECORD)
            caplen = rng.choice((0, 60, 1514, 9000))
            record[0] = (previous, 1, rng.choice((0, 0, 1)), caplen, caplen, 1)
            previous = place + CHUNKS * abi.HISTORY_CHUNK_BYTES
            places.append(place)
            offset += -(-(caplen + abi.HISTORY_RECORD.itemsize) // 8) * 8
    heads["heads"][0, 0] = previous
    return places


def _spoil(rng: random.Random, chunks: NDArray[np.void], heads: NDArray[np.void], places: list[int]) -> None:
    """Change a field of a record, the number of a chunk, or the head."""
    value = rng.choice((0, 1, 17, (1 << 18) - 8, 1 << 18, (1 << 32) - 1, (1 << 64) - 8, rng.getrandbits(20)))
    kind = rng.random()
    if kind < 0.1:
        chunks["number"][rng.randrange(CHUNKS)] = rng.choice((value, CHUNKS, CHUNKS + 1))
    elif kind < 0.3:
        heads["heads"][0, 0] = rng.choice((value, rng.choice(places) + CHUNKS * abi.HISTORY_CHUNK_BYTES))
    else:
        place = rng.choice(places)
        record = chunks.view(np.uint8)[place : place + abi.HISTORY_RECORD.itemsize].view(abi.HISTORY_RECORD)
        name = rng.choice(("previous", "hash", "caplen", "time"))
        if name == "time":
            record["ktime_ns"] = value
        else:
            record[name] = value & ((1 << 64) - 1 if name == "previous" else (1 << 32) - 1)
