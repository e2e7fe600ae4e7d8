"""The highest rate at which candidates are matched without loss. Runs in ``sensor bench ring``.

A sensor is built as ``sensor run`` builds it, with this process as its supervisor. A trial sends frames at
one rate, and its time counts until the last frame has been matched: frames that only wait in a ring are
not processed.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from sensor.bench.effort import RingEffort, Step
from sensor.bench.frame_generator import FrameGenerator, run_until_settled
from sensor.bench.matched_trial import CpuMeter, MatchedTrial, trials_row
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
"""Approximate rate without a pace, from which the length of a trial in frames follows."""


def measure_matched_rate(
    ready: Ready, frame: bytes, wire: tuple[Interface, Interface], effort: RingEffort, step: Step
) -> list[dict[str, Any]]:
    """Find the highest rate without loss for each number of workers.

    Raises:
        SensorError: no rule asks for the frame, so that the kernel ignores it.
    """
    cpus = online_cpus()
    return [
        {"workers": workers, **_measure(ready, frame, wire, cpus[:workers], effort, step)}
        for workers in WORKERS[: len(cpus)]
    ]


def _measure(
    ready: Ready,
    frame: bytes,
    wire: tuple[Interface, Interface],
    cpus: list[int],
    effort: RingEffort,
    step: Step,
) -> dict[str, Any]:
    """Build a sensor with a worker for each of the CPUs, which also send, and find its highest rate."""
    mirror, source = wire
    with ExitStack() as stack:
        evidence = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sensor-bench-")))
        settings = Settings(evidence=evidence, action="drop", workers=len(cpus), api=False, metrics="")
        events = stack.enter_context(closing(EventSender(settings, as_json=False)))
        capture = Supervisor(settings, ready, {mirror.name: mirror}, events, stack, frags=False)
        stack.enter_context(attached(capture.program.fd, mirror, settings.mode))
        generator = stack.enter_context(closing(FrameGenerator(source.index, frame, cpus)))
        return _MatchedRateSearch(capture, generator, len(cpus), effort, step).run()


class _MatchedRateSearch:
    """The search for the highest rate without loss."""

    def __init__(
        self, capture: Supervisor, generator: FrameGenerator, workers: int, effort: RingEffort, step: Step
    ) -> None:
        self._capture, self._generator, self._workers, self._effort = capture, generator, workers, effort
        self._step = step
        self._title = f"matching with {workers} worker{'s' * (workers > 1)}"

    def run(self) -> dict[str, Any]:
        """Send as fast as possible; if frames are lost, bisect; then confirm the rate."""
        self._step(f"{self._title}: as fast as frames can be sent")
        self._try(None)  # warms up caches, page tables and the flow table
        unpaced = self._try(None)
        if unpaced.ignored:
            raise SensorError("no rule asks for UDP port 53; measure with our own rules")
        pace: float | None = None
        if not unpaced.is_without_loss:
            low, high = 0.0, unpaced.offered_per_second
            for _ in range(self._effort.halvings):
                middle = (low + high) / 2
                self._step(f"{self._title}: {middle:,.0f} frames/s")
                low, high = (middle, high) if self._try(middle).is_without_loss else (low, middle)
            pace = low or high
        return trials_row(unpaced, self._confirm(pace))

    def _confirm(self, pace: float | None) -> list[MatchedTrial]:
        """Repeat trials at a pace, and lower the pace until no trial loses a frame."""
        for _ in range(MOST_STEPS_DOWN):
            self._step(f"{self._title}: confirming the rate")
            trials = [self._try(pace) for _ in range(self._effort.repeats)]
            if all(trial.is_without_loss for trial in trials):
                break
            pace = (pace or trials[0].offered_per_second) * _STEP_DOWN
        return trials

    def _try(self, per_second: float | None) -> MatchedTrial:
        """Send for the length of a trial, and match all frames."""
        capture = self._capture
        count = int(self._effort.seconds * (per_second or _UNPACED_PER_SECOND) / self._workers)
        before, meter = capture.counters(), CpuMeter(capture.workers.pids)
        start_s = last_s = time.monotonic()

        def receive() -> None:
            nonlocal last_s
            reports = list(capture.workers.receive(WAIT_S))
            if reports:
                capture.handle(reports)
                last_s = time.monotonic()

        sending = self._generator.send(count, per_second)
        run_until_settled(capture.program, sending, receive)
        while capture.counters().in_ring:
            receive()
        after, sent = capture.counters(), count * self._workers
        read, sampled = after.read - before.read, after.sampled - before.sampled
        return MatchedTrial(
            sent=sent,
            offered_per_second=sent / max(sender.result() for sender in sending),
            processed_per_second=(read - sampled) / (last_s - start_s),
            seen=after.seen - before.seen,
            ignored=sum(after.ignored.values()) - sum(before.ignored.values()),
            lost_in_ring=after.submit_failed - before.submit_failed,
            read=read,
            undecodable=after.undecodable - before.undecodable,
            unmatched=after.unmatched - before.unmatched,
            sampled=sampled,
            matched=after.matched - before.matched,
            cpu_us=meter.us_per_frame(read),
        )
