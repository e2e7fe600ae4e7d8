"""Tests for `sensor.native.frame_history`; ``tests/fuzz/histories.py`` has random ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sensor import abi
from sensor.errors import SensorError
from sensor.native.frame_history import CheckedFrames, FileHistory, HistoryColumns, HistoryEnd, HistoryFrames

FLOW, OTHER = 0x1_0000_0007, 0x2_0000_0007
SYN, ACK = 0x02, 0x10
NS = 1_000_000_000
FRAME = bytes(range(200)) * 5


def columns(
    frames: Sequence[bytes], *, flow: int = FLOW, time_s: float = 0, flags: int = ACK, ifindex: int = 0
) -> HistoryColumns:
    """Return frames of one flow and time."""
    sizes = np.array([len(frame) for frame in frames], np.int64)
    return HistoryColumns(
        data=np.frombuffer(b"".join(frames), np.uint8),
        start=np.cumsum(sizes) - sizes,
        caplen=sizes,
        wirelen=sizes,
        time_ns=np.full(len(frames), int(time_s * NS), np.int64),
        ifindex=np.full(len(frames), ifindex, np.uint32),
        flow=np.full(len(frames), flow, np.uint64),
        tcp_flags=np.full(len(frames), flags, np.uint8),
    )


def remember(history: FileHistory, frames: Sequence[bytes], **values: float) -> None:
    """Add frames of one flow to a history."""
    history.write(CheckedFrames(columns(frames, **values)), 0, len(frames))  # type: ignore[arg-type]


def texts(found: HistoryFrames) -> list[bytes]:
    """Return the bytes of frames from a history."""
    batch = found.batch()
    return [bytes(batch.buffer[at : at + size]) for at, size in zip(batch.start, batch.caplen, strict=True)]


def test_frames_come_back_in_order() -> None:
    """They have their bytes, times and interfaces; frames of another flow with the same hash come too."""
    history = FileHistory(1, 20, 30, 120)
    remember(history, [b"one", b"two"], time_s=1, ifindex=3)
    remember(history, [b"other"], flow=OTHER, time_s=2)
    remember(history, [b"elsewhere"], flow=8)
    found = history.collect(FLOW)
    assert texts(found) == [b"one", b"two", b"other"]
    batch = found.batch(offset_ns=5)
    assert batch.timestamp_ns.tolist() == [NS + 5, NS + 5, 2 * NS + 5]
    assert batch.interface.tolist() == [3, 3, 0]
    assert history.collect(9).end == HistoryEnd.WHOLE
    assert len(history.collect(9).records) == 0


def test_the_cut_off_counts_each_connection() -> None:
    """Frames beyond it are not remembered, which is known, until the next connection begins."""
    history = FileHistory(1, 1, 30, 120)
    remember(history, [FRAME] * 4)
    assert len(history.collect(FLOW).records) == 2  # the second one reaches the cut-off
    assert history.is_cut_off(FLOW)
    assert not history.is_cut_off(OTHER)
    remember(history, [FRAME], time_s=40)  # remembered after a pause, but the gap stays
    assert len(history.collect(FLOW).records) == 3
    assert history.is_cut_off(FLOW)
    remember(history, [FRAME], time_s=41, flags=SYN)
    assert not history.is_cut_off(FLOW)


def test_datagrams_begin_a_flow_after_a_pause() -> None:
    """Without TCP, a pause is the only sign of another flow."""
    history = FileHistory(1, 1, 30, 120)
    remember(history, [FRAME] * 4, flags=0)
    assert history.is_cut_off(FLOW)
    remember(history, [FRAME], time_s=31, flags=0)
    assert not history.is_cut_off(FLOW)


def test_the_oldest_frames_are_overwritten() -> None:
    """The newest ones stay, and it is known that others may be missing."""
    history = FileHistory(1, 1 << 10, 30, 120)
    frames = [number.to_bytes(2, "big") + FRAME for number in range(1500)]
    remember(history, frames, flags=SYN)
    found = history.collect(FLOW)
    assert found.end == HistoryEnd.OVERWRITTEN
    kept = texts(found)
    assert 700 < len(kept) < 1100
    assert kept == frames[-len(kept) :]


def test_columns_of_other_lengths_are_refused() -> None:
    """A frame outside of the buffer is an error, not a crash."""
    short = columns([b"one"])
    for change in ({"caplen": np.array([4])}, {"start": np.array([-1])}, {"flow": np.zeros(0, np.uint64)}):
        with pytest.raises(SensorError):
            CheckedFrames(short._replace(**change))


def test_layout() -> None:
    """Sizes are those of the kernel's program."""
    assert abi.HISTORY_CHUNK.itemsize == abi.HISTORY_CHUNK_BYTES == 1 << 18
    assert abi.HISTORY_CHUNK.fields["records"][1] == 16  # type: ignore[index]
    assert (abi.HISTORY_RECORD.itemsize, abi.HISTORY_BUCKETS) == (40 - 8, 1 << 16)
    assert abi.HISTORY_HEADS.fields["heads"][1] == 8  # type: ignore[index]
