"""One trial: a sensor of its own, frames at one rate, and what became of every one of them."""

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
from sensor.capture.ring import online_cpus
from sensor.counters import Counters

MOST_LAG_S, MOST_LAG_SHARE = 0.5, 0.1
"""A sensor keeps up if so long after the last frame, or so much of the trial, nothing waits any more: rings
of tens of MiB hide for seconds that more comes than is matched."""

Meanwhile = Callable[[Path], AbstractContextManager[object]]


class Sender(Protocol):
    """A way to send the capture."""

    name: str

    def send(self, cpus: Sequence[int], seconds: float | None, per_second: float | None) -> Sent:
        """Send for about so long, or all once; at most at that pace."""


@dataclass(frozen=True)
class Trial:
    """What came of it; frames, unless a unit is named."""

    asked_pps: float | None
    """None: as fast as can be sent."""
    seconds: float
    sent: int
    sent_bytes: int
    lost_on_wire: int
    """Sent, and not seen by the kernel program."""
    counters: Counters
    lag_s: float
    cpu_us_per_frame: dict[str, float]
    memory_mib: dict[str, float]
    steal_percent: float
    """CPU time that the machine's own host gave to others."""

    @property
    def offered_pps(self) -> float:
        """The rate it really was."""
        return self.sent / self.seconds

    @property
    def through_pps(self) -> float:
        """The rate at which frames were dealt with."""
        return (self.sent - sum(self.losses.values())) / (self.seconds + self.lag_s)

    @property
    def losses(self) -> dict[str, int]:
        """Frames lost, by the stage that could not follow."""
        counted = self.counters
        return {
            "wire": self.lost_on_wire,
            "matcher": counted.submit_failed + counted.in_ring,
            "evidence": counted.write_failed,
        }

    @property
    def keeps_up(self) -> bool:
        """Whether hardly anything waited when the last frame had come."""
        return self.lag_s <= max(MOST_LAG_S, self.seconds * MOST_LAG_SHARE)

    @property
    def is_without_loss(self) -> bool:
        """Whether every frame was dealt with, and in time."""
        return not any(self.losses.values()) and self.keeps_up

    @property
    def limit(self) -> str | None:
        """The stage that lost most; where nothing is lost and much waits, the matcher."""
        stage, lost = max(self.losses.items(), key=lambda item: item[1])
        if lost:
            return stage
        return None if self.keeps_up else "matcher"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "offered_pps": round(self.offered_pps),
            "losses": self.losses,
            "is_without_loss": self.is_without_loss,
        }


@dataclass(frozen=True)
class Rig:
    """What all trials have in common."""

    sensor: Sequence[str]
    wire: Wire
    sender: Sender
    workers: int
    cpus: Sequence[int]
    directory: Path

    def run(
        self, seconds: float | None, per_second: float | None, meanwhile: Meanwhile | None = None
    ) -> Trial:
        """Try one rate; what goes on ``meanwhile`` is told where the evidence goes."""
        with ExitStack() as stack:
            evidence = Path(stack.enter_context(TemporaryDirectory(dir=self.directory, prefix="evidence-")))
            subject = stack.enter_context(capturing(self.sensor, self.wire.mirror, evidence, self.workers))
            received, before = self.wire.received(), _Spent.now()
            with meanwhile(evidence) if meanwhile else nullcontext():
                sent = self.sender.send(self.cpus, seconds, per_second)
                self.wire.settle(received + sent.frames)
                memory_mib = subject.memory_mib
            ended, after = subject.end(), _Spent.now()
        cpu_s = {
            "kernel": after.softirq_s - before.softirq_s,
            **ended.cpu_s,
            "whole_machine": after.busy_s - before.busy_s,
        }
        steal = (after.steal_s - before.steal_s) / (after.at_s - before.at_s) / len(online_cpus())
        return Trial(
            asked_pps=per_second,
            seconds=sent.seconds,
            sent=sent.frames,
            sent_bytes=sent.octets,
            lost_on_wire=sent.frames - ended.counters.seen,
            counters=ended.counters,
            lag_s=round(ended.lag_s, 3),
            cpu_us_per_frame={stage: round(spent / sent.frames * 1e6, 3) for stage, spent in cpu_s.items()},
            memory_mib=memory_mib,
            steal_percent=round(steal * 100, 1),
        )


class _Spent(NamedTuple):
    at_s: float
    busy_s: float
    softirq_s: float
    steal_s: float

    @classmethod
    def now(cls) -> _Spent:
        return cls(time.monotonic(), busy_s(), stat_s("softirq"), stat_s("steal"))
