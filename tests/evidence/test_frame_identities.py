"""Frames that are kept already are known again, and no others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import ITEM
from sensor.evidence.frame_identities import FrameIdentities


def items(ktime_ns: NDArray[np.int64], cpu: int = 0) -> NDArray[np.void]:
    """Return items with these times."""
    made = np.zeros(len(ktime_ns), ITEM)
    made["ktime_ns"], made["cpu"] = ktime_ns, cpu
    return made


def test_many_frames_are_known_again() -> None:
    """All of 100,000 frames are known, whether they came together or one by one."""
    known, times = FrameIdentities(), np.random.default_rng(1).choice(10**12, 100_000, replace=False) + 1
    for part in np.array_split(times, 100):
        known.add(items(part))
    assert known.has(items(times)).all()
    assert not known.has(items(times, cpu=1)).any()
    assert not known.has(items(times + 10**13)).any()


def test_the_newest_frames_displace_the_oldest() -> None:
    """Memory is fixed, however many frames there are."""
    known, times = FrameIdentities(), np.arange(1, 4_000_001)
    for part in np.array_split(times, 40):
        known.add(items(part))
    assert known.has(items(times[-100_000:])).all()
    assert known.has(items(times[:100_000])).mean() < 0.01


def test_frames_of_capture_files_have_no_identity() -> None:
    """Their time in the kernel is 0; none is taken for another."""
    known = FrameIdentities()
    known.add(items(np.zeros(3, np.int64)))
    assert not known.has(items(np.zeros(3, np.int64))).any()
