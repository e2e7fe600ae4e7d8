"""Candidates through kernel, rings, workers and supervisor; a part of ``sensor bench ring``.

Everything is built as ``sensor run`` builds it, in this process, which then is the supervisor. Of
every rate that is tried, the frames are sent, and the time counts until the last has been matched:
what only waits in a ring is not through.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from sensor.bench.effort import Effort, Step
from sensor.bench.frame_generator import Generator, settle
from sensor.bench.machine import busy_s, figure, process_s
from sensor.capture.attachment import attached
from sensor.capture.cpus import online_cpus
from sensor.capture.interface import Interface
from sensor.config.settings import Settings
from sensor.errors import SensorError
from sensor.events.sender import EventSender
from sensor.live.run import WAIT_S
from sensor.live.supervisor import Supervisor
from sensor.rules.ready import Ready

WORKERS = (1, 2)
MOST_STEPS_DOWN = 6
_STEP_DOWN = 0.9
_UNPACED_PER_SECOND = 1_000_000
"""About what is sent where no pace is set: says how many frames make a trial of some length."""
_STAGES = ("lost_on_wire", "seen", "ignored", "lost_in_ring", "read", "undecodable", "unmatched", "matched")


class _Trial(NamedTuple):
    """What came of some frames; every count is of this trial alone."""

    sent: int
    offered_per_second: float
    through_per_second: float
    seen: int
    ignored: int
    lost_in_ring: int
    read: int
    undecodable: int
    unmatched: int
    matched: int
    cpu_us: dict[str, float]
    """Of a frame: workers, supervisor, sending with the kernel's work on the frame, the whole machine."""

    @property
    def lost_on_wire(self) -> int:
        """Never came to the kernel program: the veth's own queue was full."""
        return self.sent - self.seen

    @property
    def is_without_loss(self) -> bool:
        return not self.lost_in_ring and not self.lost_on_wire


def measure_through(
    ready: Ready, frame: bytes, wire: tuple[Interface, Interface], effort: Effort, step: Step
) -> list[dict[str, Any]]:
    """Find the highest rate without loss for each number of workers.

    Raises:
        SensorError: The kernel ignores the frame by these rules.
    """
    cpus = online_cpus()
    return [
        {"workers": workers, **_measured(ready, frame, wire, cpus[:workers], effort, step)}
        for workers in WORKERS[: len(cpus)]
    ]


def _measured(
    ready: Ready,
    frame: bytes,
    wire: tuple[Interface, Interface],
    cpus: list[int],
    effort: Effort,
    step: Step,
) -> dict[str, Any]:
    """Build a sensor with a worker for each of these CPUs, which send, too."""
    mirror, source = wire
    with ExitStack() as stack:
        evidence = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sensor-bench-")))
        settings = Settings(evidence=evidence, action="drop", workers=len(cpus), api=False, metrics="")
        nobody = stack.enter_context(closing(EventSender(settings, as_json=False)))
        capture = Supervisor(settings, ready, [mirror], nobody, stack, frags=False)
        stack.enter_context(attached(capture.program.fd, mirror, settings.mode))
        generator = stack.enter_context(closing(Generator(source.index, frame, cpus)))
        return _Search(capture, generator, len(cpus), effort).run(step)


class _Search:
    """For the highest rate without loss."""

    def __init__(self, capture: Supervisor, generator: Generator, senders: int, effort: Effort) -> None:
        self._capture, self._generator, self._senders, self._effort = capture, generator, senders, effort

    def run(self, step: Step) -> dict[str, Any]:
        """Try as fast as it goes; where that is too fast, halve the range some times, then confirm."""
        step(f"through the matcher, {self._senders} workers: as fast as frames can be sent")
        self._try(None)  # caches, page tables and the flow table are cold
        unpaced = self._try(None)
        if unpaced.ignored:
            raise SensorError("these rules ask for nothing on UDP port 53; measure with our own")
        pace: float | None = None
        if not unpaced.is_without_loss:
            low, high = 0.0, unpaced.offered_per_second
            for _ in range(self._effort.halvings):
                middle = (low + high) / 2
                step(f"through the matcher, {self._senders} workers: {middle:,.0f} frames/s")
                low, high = (middle, high) if self._try(middle).is_without_loss else (low, middle)
            pace = low or high
        trials = self._confirmed(pace, step)
        return _row(unpaced, trials)

    def _confirmed(self, pace: float | None, step: Step) -> list[_Trial]:
        """Repeat at that pace, or at the next lower one at which no trial loses a frame."""
        for _ in range(MOST_STEPS_DOWN):
            step(f"through the matcher, {self._senders} workers: confirming")
            trials = [self._try(pace) for _ in range(self._effort.repeats)]
            if all(trial.is_without_loss for trial in trials):
                break
            pace = (pace or trials[0].offered_per_second) * _STEP_DOWN
        return trials

    def _try(self, per_second: float | None) -> _Trial:
        """Send for a while, and match all of it."""
        capture = self._capture
        count = int(self._effort.seconds * (per_second or _UNPACED_PER_SECOND) / self._senders)
        before, spent = capture.counters(), _Spent()
        start_s = last_s = time.monotonic()

        def take() -> None:
            nonlocal last_s
            reports = list(capture.crew.receive(WAIT_S))
            if reports:
                capture.take(reports)
                last_s = time.monotonic()

        sending = self._generator.send(count, per_second)
        settle(capture.program, sending, take)
        while capture.counters().in_ring:
            take()
        after, sent = capture.counters(), count * self._senders
        read = after.read - before.read
        return _Trial(
            sent=sent,
            offered_per_second=sent / max(one.result() for one in sending),
            through_per_second=read / (last_s - start_s),
            seen=after.seen - before.seen,
            ignored=sum(after.ignored.values()) - sum(before.ignored.values()),
            lost_in_ring=after.submit_failed - before.submit_failed,
            read=read,
            undecodable=after.undecodable - before.undecodable,
            unmatched=after.unmatched - before.unmatched,
            matched=after.matched - before.matched,
            cpu_us=spent.us_a_frame(read),
        )


class _Spent:
    """CPU time since it was made."""

    def __init__(self) -> None:
        self._workers = [child.pid for child in multiprocessing.active_children() if child.pid]
        self._before = self._now_s()

    def _now_s(self) -> dict[str, float]:
        supervisor_s = time.thread_time()
        return {
            "workers": sum(map(process_s, self._workers)),
            "supervisor": supervisor_s,
            "kernel_and_sending": time.process_time() - supervisor_s,
            "machine": busy_s(),
        }

    def us_a_frame(self, frames: int) -> dict[str, float]:
        now_s = self._now_s()
        return {who: (now_s[who] - then_s) / frames * 1e6 for who, then_s in self._before.items()}


def _row(unpaced: _Trial, trials: list[_Trial]) -> dict[str, Any]:
    lost = {stage: sum(getattr(trial, stage) for trial in trials) for stage in _STAGES}
    return {
        "unpaced": {
            "offered_per_second": round(unpaced.offered_per_second),
            "through_per_second": round(unpaced.through_per_second),
            "lost_on_wire": unpaced.lost_on_wire,
            "lost_in_ring": unpaced.lost_in_ring,
        },
        "is_without_loss": all(trial.is_without_loss for trial in trials),
        "offered_per_second": figure([trial.offered_per_second for trial in trials], 0),
        "through_per_second": figure([trial.through_per_second for trial in trials], 0),
        "sent": sum(trial.sent for trial in trials),
        **lost,
        "cpu_us_a_frame": {
            who: figure([trial.cpu_us[who] for trial in trials], 3) for who in trials[0].cpu_us
        },
    }
