"""``sensor bench replay``: the highest rate of some traffic at which no frame is lost; as root.

Trials of a fixed length, each with a sensor of its own, and bisection between what passed and what
did not (RFC 2544, sections 24 and 26.1). What is offered is what the sender really sent; how fast it
can send with nothing to receive is measured first, so that nobody takes its limit for the sensor's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sensor.bench.frame_generator import XDP_DROP, instruction
from sensor.bench.kernel_sender import KernelSender
from sensor.bench.latency import Watcher
from sensor.bench.machine import figure, machine
from sensor.bench.paced_capture import GAP_US, PacedCapture, play
from sensor.bench.tcpreplay import Tcpreplay
from sensor.bench.trial import Rig, Trial
from sensor.bench.wire import Wire
from sensor.capture.attachment import attached, find_interface
from sensor.capture.cpus import online_cpus
from sensor.capture.program import check_privileges
from sensor.capture.syscalls import xdp_load
from sensor.config.loading import load_settings
from sensor.errors import SensorError

SENSOR = (sys.executable, "-m", "sensor")
SENDERS: dict[str, type[Tcpreplay] | type[KernelSender]] = {"tcpreplay": Tcpreplay, "live": KernelSender}
SLOWEST_PPS = 500
"""Nobody asks for less."""
MOST_STEPS_DOWN = 6
STEP_DOWN = 0.95
NOISY_PERCENT = 10
UNSTEADY = 0.1
"""Spread of repeats, relative to their median, above which a warning is due."""

Step = Callable[[str], None]
"""Is told what comes next."""


class ReplayEffort(NamedTuple):
    """What a rough answer spares."""

    seconds: float
    """Of a trial."""
    halvings: int
    repeats: int

    @property
    def trials(self) -> int:
        """About how many trials a search takes: all but those that confirm anew."""
        return self.halvings + self.repeats + 4


FULL, QUICK = ReplayEffort(3, 7, 3), ReplayEffort(0.4, 3, 1)


class Traffic(NamedTuple):
    """What is replayed, and how it is called."""

    name: str
    captures: Sequence[Path]


def measure(
    traffic: Sequence[Traffic],
    wire: AbstractContextManager[Wire],
    effort: ReplayEffort,
    step: Step,
    *,
    workers: Sequence[int] = (1,),
    generator: str = "tcpreplay",
    directory: Path | None = None,
    sensor: Sequence[str] = SENSOR,
) -> dict[str, Any]:
    """Measure each traffic with each number of workers; with so many senders, each on a CPU.

    Raises:
        PrivilegeError: Root is missing.
        CaptureFileError: A capture cannot be replayed.
        SensorError: The sensor or the sender failed, or what was sent does not arrive.
    """
    check_privileges()
    if max(workers) > len(online_cpus()):
        raise SensorError(f"{max(workers)} workers need as many CPUs; there are {len(online_cpus())}")
    where = machine()
    rows = []
    with wire as ends, TemporaryDirectory(prefix="sensor-bench-", dir=directory) as temporary:
        for what in traffic:
            for count in workers:
                with TemporaryDirectory(dir=temporary) as files:
                    chosen = SENDERS[generator]
                    played = play(what.captures, Path(files), count, ends.mtu, chosen.most_frames)
                    sender = chosen(ends.source, played.shares, played.share_frames)
                    rig = Rig(sensor, ends, sender, count, online_cpus()[:count], Path(files))
                    rows.append(_Search(what.name, played, rig, effort, step).run())
    return {
        "bench": "replay",
        "machine": where,
        "trial_seconds": effort.seconds,
        "warnings": list(_warnings(where, rows)),
        "rows": rows,
    }


class _Search:
    """For the highest rate of one traffic."""

    def __init__(self, name: str, played: PacedCapture, rig: Rig, effort: ReplayEffort, step: Step) -> None:
        self._played, self._rig, self._effort, self._tell = played, rig, effort, step
        self._title = f"{name}, {rig.workers} worker{'s' * (rig.workers > 1)}"
        self._name = name
        self._trials: list[Trial] = []

    def run(self) -> dict[str, Any]:
        ceiling_pps = self._ceiling_pps()
        evidence = self._evidence()
        pace, confirmed = self._highest()
        latency_ms = self._latency_ms(confirmed)
        return {
            "traffic": self._name,
            "frames": self._played.frames,
            "bytes_per_frame": round(self._played.octets / self._played.frames, 1),
            "too_long": self._played.too_long,
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
        """Send to a program that drops everything at once."""
        self._tell(f"{self._title}: how fast {self._rig.sender.name} is")
        wire = self._rig.wire
        with ExitStack() as stack:
            fd = xdp_load("nothing", instruction(0xB7, value=XDP_DROP) + instruction(0x95), 0)
            stack.callback(os.close, fd)
            stack.enter_context(attached(fd, find_interface(wire.mirror), load_settings({}).mode))
            before = wire.received()
            sent = self._rig.sender.send(self._rig.cpus, self._effort.seconds, None)
            if wire.settle(before + sent.frames) == before:
                raise SensorError(
                    f"nothing sent from {wire.source} arrived at {wire.mirror}; connect them by a cable"
                )
        return sent.per_second

    def _evidence(self) -> dict[str, Any]:
        """Send everything once, slowly: the same is to be found as in the file."""
        expected = _expected(self._rig.sensor, self._played.whole)
        trial = self._try(None, 1e6 / GAP_US, "all of it once, slowly")
        return {
            "expected": expected,
            "found": trial.counters.matched,
            "lost": sum(trial.losses.values()),
            "pps": round(trial.offered_pps),
        }

    def _highest(self) -> tuple[float | None, list[Trial]]:
        """Return the pace (None: as fast as can be sent) and the trials that confirm it, if any do."""
        seconds, pace = self._effort.seconds, None
        fastest = self._try(seconds, None, "as fast as it goes")
        if not fastest.is_without_loss:
            pace = self._bisect(fastest)
        for _ in range(MOST_STEPS_DOWN if pace != 0 else 0):
            trials = [self._try(seconds, pace, "confirming") for _ in range(self._effort.repeats)]
            if all(trial.is_without_loss for trial in trials):
                return pace, trials
            pace = STEP_DOWN * (pace or min(trial.offered_pps for trial in trials))
        return pace, []

    def _bisect(self, failed: Trial) -> float:
        """Go down until nothing is lost, then halve what is between; 0 where something always is."""
        low, above, halvings = 0.0, failed.offered_pps, self._effort.halvings
        while halvings and above > SLOWEST_PPS:
            middle = (low + above) / 2 if low else min(above / 2, failed.through_pps)
            trial = self._try(self._effort.seconds, middle, f"{middle:,.0f} frames/s")
            if trial.is_without_loss:
                low = middle
            else:
                above, failed = middle, trial
            halvings -= bool(low)
        return low

    def _latency_ms(self, confirmed: list[Trial]) -> dict[str, float] | None:
        """Watch the evidence at half of the highest rate."""
        if not confirmed:
            return None
        watcher = Watcher()
        half = min(trial.offered_pps for trial in confirmed) / 2
        self._try(self._effort.seconds, half, "how soon evidence can be read", watcher)
        return watcher.spread_ms()

    def _try(
        self, seconds: float | None, pps: float | None, what: str, watcher: Watcher | None = None
    ) -> Trial:
        self._tell(f"{self._title}: {what}")
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
        """Name what kept the rate from being higher."""
        if pace is None:
            return "generator"
        failed = [trial for trial in self._trials if not trial.is_without_loss]
        lowest = min(failed, key=lambda trial: trial.offered_pps)
        return lowest.limit or "generator"


def _rates(confirmed: list[Trial]) -> dict[str, Any]:
    """Sum up the trials that confirmed the rate; zeros where there are none."""
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


def _expected(sensor: Sequence[str], capture: Path) -> int:
    """Return the packets that ``sensor read`` keeps of a file."""
    environment = {name: value for name, value in os.environ.items() if name != "SENSOR_EVIDENCE"}
    done = subprocess.run([*sensor, "read", str(capture)], capture_output=True, text=True, env=environment)
    for line in done.stderr.splitlines():
        _, counters, text = line.partition("counters: ")
        if counters:
            return int(json.loads(text)["matched"])
    raise SensorError(f"sensor read failed: {done.stderr.strip()[-300:]}")


def _warnings(where: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    """Say why figures may not be those of an idle machine."""
    busy = where["busy_with_others_percent"]
    if busy > NOISY_PERCENT:
        yield f"other programs kept the machine {busy} % busy before the measurement"
    steal = max((trial["steal_percent"] for row in rows for trial in row["trials"]), default=0)
    if steal > NOISY_PERCENT:
        yield f"the machine's host gave up to {steal} % of the CPU time to others"
    for row in rows:
        spread = row.get("zero_loss_pps_spread")
        if spread and spread["most"] - spread["least"] > UNSTEADY * spread["median"]:
            yield f"{row['traffic']}, {row['workers']} workers: repeats differ by more than {UNSTEADY:.0%}"
        if row["generator_ceiling_pps"] * 0.95 < row["zero_loss_pps"]:
            yield f"{row['traffic']}, {row['workers']} workers: {row['generator']} is not faster than that"
