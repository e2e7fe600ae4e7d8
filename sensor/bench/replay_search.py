"""The search for the highest rate of a capture at which no frame is lost. Runs in ``sensor bench replay``.

It bisects between rates that passed and rates that failed (RFC 2544, sections 24 and 26.1).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sensor.bench.effort import ReplayEffort, Step
from sensor.bench.frame_generator import XDP_DROP, instruction
from sensor.bench.latency import LatencyWatcher
from sensor.bench.machine import figure
from sensor.bench.paced_capture import GAP_US, PacedCapture
from sensor.bench.trial import Rig, Trial
from sensor.capture.attachment import attached, find_interface
from sensor.capture.syscalls import xdp_load
from sensor.config.loading import load_settings
from sensor.errors import SensorError

SLOWEST_PPS = 500
"""The search ends below this rate."""
MOST_STEPS_DOWN = 6
STEP_DOWN = 0.95


class ReplaySearch:
    """The search with one capture and one number of workers."""

    def __init__(self, name: str, capture: PacedCapture, rig: Rig, effort: ReplayEffort, step: Step) -> None:
        self._name, self._capture, self._rig, self._effort, self._step = name, capture, rig, effort, step
        self._title = f"{name}, {rig.workers} worker{'s' * (rig.workers > 1)}"
        self._trials: list[Trial] = []

    def run(self) -> dict[str, Any]:
        """Measure, and return a row of the result."""
        ceiling_pps = self._ceiling_pps()
        evidence = self._evidence()
        pace, confirmed = self._highest()
        latency_ms = self._latency_ms(confirmed)
        return {
            "traffic": self._name,
            "frames": self._capture.frames,
            "bytes_per_frame": round(self._capture.octets / self._capture.frames, 1),
            "too_long": self._capture.too_long,
            "workers": self._rig.workers,
            "generator": self._rig.sender.name,
            "generator_ceiling_pps": round(ceiling_pps),
            "limited_by": self._limit(pace),
            **_rates(confirmed),
            "evidence": evidence,
            "latency_ms": latency_ms,
            "trials": [trial.as_dict() for trial in self._trials],
        }

    def _ceiling_pps(self) -> float:
        """Measure the sender alone: send to a program that drops every frame."""
        self._step(f"{self._title}: highest rate of {self._rig.sender.name}")
        wire = self._rig.wire
        with ExitStack() as stack:
            fd = xdp_load("drop", instruction(0xB7, value=XDP_DROP) + instruction(0x95), 0)
            stack.callback(os.close, fd)
            stack.enter_context(attached(fd, find_interface(wire.mirror), load_settings({}).mode))
            before = wire.received()
            sent = self._rig.sender.send(self._rig.cpus, self._effort.seconds, None)
            if wire.settle(before + sent.frames) == before:
                raise SensorError(
                    f"no frame sent from {wire.source} arrived at {wire.mirror}; connect them with a cable"
                )
        return sent.per_second

    def _evidence(self) -> dict[str, Any]:
        """Send every frame once at a low rate, and compare the evidence with that of the file."""
        expected = _matched_in_file(self._rig.sensor, self._capture.whole)
        trial = self._try(None, 1e6 / GAP_US, "every frame once, at a low rate")
        return {
            "expected": expected,
            "found": trial.counters.matched,
            "lost": sum(trial.losses.values()),
            "pps": round(trial.offered_pps),
        }

    def _highest(self) -> tuple[float | None, list[Trial]]:
        """Return the pace, None for as fast as possible, and the trials that confirm it, if any do."""
        seconds, pace = self._effort.seconds, None
        fastest = self._try(seconds, None, "as fast as possible")
        if not fastest.is_without_loss:
            pace = self._bisect(fastest)
        for _ in range(MOST_STEPS_DOWN if pace != 0 else 0):
            trials = [self._try(seconds, pace, "confirming the rate") for _ in range(self._effort.repeats)]
            if all(trial.is_without_loss for trial in trials):
                return pace, trials
            pace = STEP_DOWN * (pace or min(trial.offered_pps for trial in trials))
        return pace, []

    def _bisect(self, failed: Trial) -> float:
        """Lower the rate until nothing is lost, then bisect; return 0 if frames are lost at every rate."""
        low, high, halvings = 0.0, failed.offered_pps, self._effort.halvings
        while halvings and high > SLOWEST_PPS:
            middle = (low + high) / 2 if low else min(high / 2, failed.processed_pps)
            trial = self._try(self._effort.seconds, middle, f"{middle:,.0f} frames/s")
            if trial.is_without_loss:
                low = middle
            else:
                high, failed = middle, trial
            halvings -= bool(low)
        return low

    def _latency_ms(self, confirmed: list[Trial]) -> dict[str, float] | None:
        """Watch the evidence at half of the highest rate."""
        if not confirmed:
            return None
        watcher = LatencyWatcher()
        half = min(trial.offered_pps for trial in confirmed) / 2
        self._try(self._effort.seconds, half, "delay of the evidence", watcher)
        return watcher.spread_ms()

    def _try(
        self, seconds: float | None, pps: float | None, what: str, watcher: LatencyWatcher | None = None
    ) -> Trial:
        self._step(f"{self._title}: {what}")
        trial = self._rig.run(seconds, pps, watcher.watching if watcher else None)
        for left, right, total, parts in trial.counters.equations():
            if total != parts:
                raise SensorError(
                    f"the sensor's counters do not add up: {left} is {total}, {right} is {parts}"
                )
        if watcher is None and seconds is not None:
            self._trials.append(trial)
        return trial

    def _limit(self, pace: float | None) -> str:
        """Return the stage that limited the rate."""
        if pace is None:
            return "generator"
        failed = [trial for trial in self._trials if not trial.is_without_loss]
        lowest = min(failed, key=lambda trial: trial.offered_pps)
        return lowest.limit or "generator"


def _rates(confirmed: list[Trial]) -> dict[str, Any]:
    """Summarize the trials that confirmed the rate; zeros if there are none."""
    if not confirmed:
        return {"zero_loss_pps": 0, "zero_loss_gbps": 0.0, "cpu_us_per_frame": {}, "memory_mib": {}}
    pps = figure([trial.offered_pps for trial in confirmed], 0)
    gbps = figure([trial.sent_bytes * 8 / trial.seconds / 1e9 for trial in confirmed], 3)
    cpu_us = {
        stage: figure([trial.cpu_us_per_frame[stage] for trial in confirmed], 3)
        for stage in confirmed[0].cpu_us_per_frame
    }
    last = confirmed[-1]
    candidates = sum(trial.counters.submitted + trial.counters.submit_failed for trial in confirmed)
    return {
        "zero_loss_pps": round(pps["median"]),
        "zero_loss_pps_spread": pps,
        "zero_loss_gbps": gbps["median"],
        "zero_loss_gbps_spread": gbps,
        "candidate_share": round(candidates / sum(trial.counters.seen for trial in confirmed), 4),
        "cpu_us_per_frame": {stage: spread["median"] for stage, spread in cpu_us.items()},
        "cpu_us_per_frame_spread": cpu_us,
        "memory_mib": last.memory_mib,
        "counters": last.counters.as_dict(),
    }


def _matched_in_file(sensor: Sequence[str], capture: Path) -> int:
    """Return the number of packets of a file that ``sensor read`` finds matches in."""
    environment = {name: value for name, value in os.environ.items() if name != "SENSOR_EVIDENCE"}
    done = subprocess.run([*sensor, "read", str(capture)], capture_output=True, text=True, env=environment)
    for line in done.stderr.splitlines():
        _, counters, text = line.partition("counters: ")
        if counters:
            return int(json.loads(text)["matched"])
    raise SensorError(f"sensor read failed: {done.stderr.strip()[-300:]}")
