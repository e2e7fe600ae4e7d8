"""A trial of the matched rate, with its counts and CPU times. Runs in ``sensor bench ring``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from sensor.bench.machine import busy_s, figure, process_s

_STAGES = (
    "lost_on_wire",
    "seen",
    "ignored",
    "lost_in_ring",
    "read",
    "undecodable",
    "unmatched",
    "sampled",
    "matched",
)


class MatchedTrial(NamedTuple):
    """The result of a trial; every count is of this trial alone."""

    sent: int
    offered_per_second: float
    processed_per_second: float
    """The rate at which frames were matched against all rules."""
    seen: int
    ignored: int
    lost_in_ring: int
    read: int
    undecodable: int
    unmatched: int
    sampled: int
    matched: int
    cpu_us: dict[str, float]
    """CPU time per frame: workers, supervisor, kernel and sender together, whole machine."""

    @property
    def lost_on_wire(self) -> int:
        """Frames that never reached the kernel program because the queue of the veth interface was full."""
        return self.sent - self.seen

    @property
    def is_without_loss(self) -> bool:
        """True if every frame was read and matched."""
        return not (self.lost_in_ring or self.lost_on_wire or self.sampled)


class CpuMeter:
    """Measures CPU time from its creation on; this process is the supervisor."""

    def __init__(self, workers: Sequence[int]) -> None:
        """``workers`` are process ids."""
        self._workers = workers
        self._start_s = self._now_s()

    def _now_s(self) -> dict[str, float]:
        supervisor_s = time.thread_time()
        return {
            "workers": sum(map(process_s, self._workers)),
            "supervisor": supervisor_s,
            "kernel_and_sending": time.process_time() - supervisor_s,
            "machine": busy_s(),
        }

    def us_per_frame(self, frames: int) -> dict[str, float]:
        """Return the CPU time spent so far, divided by a number of frames."""
        now_s = self._now_s()
        return {part: (now_s[part] - start_s) / frames * 1e6 for part, start_s in self._start_s.items()}


def trials_row(unpaced: MatchedTrial, trials: list[MatchedTrial]) -> dict[str, Any]:
    """Return JSON data of a trial without a pace, and of the trials that confirmed the highest rate."""
    counts = {stage: sum(getattr(trial, stage) for trial in trials) for stage in _STAGES}
    return {
        "unpaced": {
            "offered_per_second": round(unpaced.offered_per_second),
            "through_per_second": round(unpaced.processed_per_second),
            "lost_on_wire": unpaced.lost_on_wire,
            "lost_in_ring": unpaced.lost_in_ring,
        },
        "is_without_loss": all(trial.is_without_loss for trial in trials),
        "offered_per_second": figure([trial.offered_per_second for trial in trials], 0),
        "through_per_second": figure([trial.processed_per_second for trial in trials], 0),
        "sent": sum(trial.sent for trial in trials),
        **counts,
        "cpu_us_a_frame": {
            part: figure([trial.cpu_us[part] for trial in trials], 3) for part in trials[0].cpu_us
        },
    }
