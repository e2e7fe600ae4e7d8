"""One trial: a sensor of its own, frames sent at one rate, and what happened to each of them.

Runs in ``sensor bench replay``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from sensor.bench.machine import busy_s, stat_s
from sensor.bench.sensor_process import capturing
from sensor.bench.tcpreplay import Sent
from sensor.bench.wire import Wire
from sensor.capture.cpus import online_cpus
from sensor.counters import Counters
from sensor.live.followed_conversations import LAST_LOOK_S

MOST_LAG_S, MOST_LAG_SHARE = 0.5, 0.1
"""The longest time a sensor that keeps up may need after the last frame, in seconds or as a share of the
trial: rings of tens of MiB hide for seconds that frames arrive faster than they are matched."""

Observer = Callable[[Path], AbstractContextManager[object]]
"""Watches an evidence directory for the time of a trial."""


class FrameSender(Protocol):
    """A way to send the capture."""

    name: str

    def send(self, cpus: Sequence[int], seconds: float | None, per_second: float | None) -> Sent:
        """Send for about ``seconds``, or all frames once if None; at most at ``per_second`` in total."""


@dataclass(frozen=True)
class Trial:
    """The result of a trial; counts are frames."""

    asked_pps: float | None
    """None if sent as fast as possible."""
    seconds: float
    sent: int
    sent_bytes: int
    lost_on_wire: int
    """Frames sent but not seen by the kernel program."""
    counters: Counters
    match_lag_s: float
    """Time after the last frame until all were matched."""
    lag_s: float
    """The same until they were written and indexed, too."""
    left_rows_out: bool
    """True if the index did not keep up: rows were left out, to be added later."""
    cpu_us_per_frame: dict[str, float]
    memory_mib: dict[str, float]
    steal_percent: float
    """CPU time the hypervisor gave to other guests."""

    @property
    def offered_pps(self) -> float:
        """The rate at which frames were really sent."""
        return self.sent / self.seconds

    @property
    def processed_pps(self) -> float:
        """The rate at which frames were processed, until nothing waited any more."""
        return (self.sent - sum(self.losses.values())) / (self.seconds + self.lag_s)

    @property
    def losses(self) -> dict[str, int]:
        """Frames lost, by the stage that lost them."""
        counted = self.counters
        return {
            "wire": self.lost_on_wire,
            "matcher": counted.submit_failed + counted.in_ring + counted.sampled + counted.quarantined,
            "evidence": counted.write_failed,
        }

    @property
    def keeps_up(self) -> bool:
        """True if hardly any frame or row waited after the last frame had arrived."""
        most_s = max(MOST_LAG_S, self.seconds * MOST_LAG_SHARE)
        is_written = self.lag_s <= most_s + LAST_LOOK_S  # context is looked for once all is matched
        return self.match_lag_s <= most_s and is_written and not self.left_rows_out

    @property
    def is_without_loss(self) -> bool:
        """True if every frame was processed, and in time."""
        return not any(self.losses.values()) and self.keeps_up

    @property
    def limit(self) -> str | None:
        """The stage that lost most, or where much waited; None if there is none."""
        stage, lost = max(self.losses.items(), key=lambda item: item[1])
        if lost:
            return stage
        if self.keeps_up:
            return None
        return "index" if self.left_rows_out or self.match_lag_s < self.lag_s / 2 else "matcher"

    def as_dict(self) -> dict[str, Any]:
        """Return the trial as JSON data."""
        return {
            **asdict(self),
            "offered_pps": round(self.offered_pps),
            "losses": self.losses,
            "is_without_loss": self.is_without_loss,
        }


@dataclass(frozen=True)
class Rig:
    """The set-up all trials share."""

    sensor: Sequence[str]
    wire: Wire
    sender: FrameSender
    workers: int
    cpus: Sequence[int]
    directory: Path

    def run(self, seconds: float | None, per_second: float | None, observer: Observer | None = None) -> Trial:
        """Try one rate, while ``observer`` watches the evidence directory."""
        with ExitStack() as stack:
            evidence = Path(stack.enter_context(TemporaryDirectory(dir=self.directory, prefix="evidence-")))
            sensor = stack.enter_context(capturing(self.sensor, self.wire.mirror, evidence, self.workers))
            received, before = self.wire.received(), _CpuTimes.now()
            with observer(evidence) if observer else nullcontext():
                sent = self.sender.send(self.cpus, seconds, per_second)
                self.wire.settle(received + sent.frames)
                memory_mib = sensor.memory_mib
            final, after = sensor.stop(), _CpuTimes.now()
        cpu_s = {
            "kernel": after.softirq_s - before.softirq_s,
            **final.cpu_s,
            "whole_machine": after.busy_s - before.busy_s,
        }
        steal = (after.steal_s - before.steal_s) / (after.at_s - before.at_s) / len(online_cpus())
        return Trial(
            asked_pps=per_second,
            seconds=sent.seconds,
            sent=sent.frames,
            sent_bytes=sent.octets,
            lost_on_wire=sent.frames - final.counters.seen,
            counters=final.counters,
            match_lag_s=round(final.match_lag_s, 3),
            lag_s=round(final.lag_s, 3),
            left_rows_out=final.left_rows_out,
            cpu_us_per_frame={stage: round(spent / sent.frames * 1e6, 3) for stage, spent in cpu_s.items()},
            memory_mib=memory_mib,
            steal_percent=round(steal * 100, 1),
        )


class _CpuTimes(NamedTuple):
    """CPU times of the whole machine at one moment."""

    at_s: float
    busy_s: float
    softirq_s: float
    steal_s: float

    @classmethod
    def now(cls) -> _CpuTimes:
        return cls(time.monotonic(), busy_s(), stat_s("softirq"), stat_s("steal"))
