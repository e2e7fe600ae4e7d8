"""One trial: a sensor of its own, office traffic at a steady pace, and after some time a flood beside it.

Runs in ``sensor bench overload``. The office's sender runs in real time, so that the flood cannot delay it.
All frames are sent from one CPU, and therefore arrive in the same ring.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sensor.bench.effort import OverloadEffort
from sensor.bench.flood import Flood
from sensor.bench.frame_pacer import FramePacer, Paced
from sensor.bench.sensor_process import capturing
from sensor.bench.traffic.profiles import PROFILES
from sensor.bench.wire import Wire
from sensor.capture.cpus import online_cpus
from sensor.counters import Counters
from sensor.files.capture_file import CaptureFile
from sensor.metrics import catalogue as c
from sensor.metrics.figures import ask

METRICS = "127.0.0.1:9321"
_ASK_S = 0.5
_AFTER_S = 1.5
"""Time for which the office sends on after a flood: until the sensor has looked for the costliest sources."""

Costliest = dict[str, dict[str, float]]
"""Share of a CPU and matched part by address, as ``sensor status --json`` shows them."""


class Office(NamedTuple):
    """Office traffic, in order."""

    frames: list[bytes]
    per_second: int
    attacks: frozenset[bytes]
    """Frames of attacks that are sent while there is a flood."""


def office_traffic(effort: OverloadEffort, per_second: int, every: int, seed: int) -> Office:
    """Return office traffic for a trial, in which each ``every``-th frame is an attack from some host."""
    profile, rng = PROFILES["office"], Random(seed)  # noqa: S311 - the same for the same seed
    ordinary = profile.frames(rng)
    frames = [
        next(ordinary).data if number % every else profile.matching_frame(rng)
        for number in range(int((effort.calm_s + effort.flood_s + _AFTER_S) * per_second))
    ]
    first, end = (int(at_s * per_second) for at_s in (effort.calm_s, effort.calm_s + effort.flood_s))
    attacks = frames[-(-first // every) * every : end : every]
    return Office(frames, per_second, frozenset(attacks))


class OverloadTrial(NamedTuple):
    """The result of a trial; counts are frames."""

    office: Paced
    flood: Paced | None
    found: int
    """Attacks that became evidence."""
    counters: Counters
    left_rows_out: bool
    """True if the index did not keep up: rows were left out, to be added later."""
    costliest: Costliest
    """The costliest sources at the height of the flood."""
    logged: list[str]
    """Lines of the log about the overload."""

    @property
    def lost_on_wire(self) -> int:
        """Frames that the kernel program did not see."""
        sent = self.office.frames + (self.flood.frames if self.flood else 0)
        return sent - self.counters.seen


class OverloadRig(NamedTuple):
    """The set-up all trials share."""

    sensor: Sequence[str]
    wire: Wire
    directory: Path
    office: Office
    effort: OverloadEffort
    seed: int

    def run(self, flood: Flood | None) -> OverloadTrial:
        """Send the office's traffic to a sensor, and after some time the flood, too.

        Without a flood, nobody has to be known before it: the office begins with the time that counts.
        """
        flood_s = self.effort.flood_s
        calm_s = self.effort.calm_s if flood else 0.0
        frames = self.office.frames[0 if flood else int(self.effort.calm_s * self.office.per_second) :]
        with ExitStack() as stack:
            evidence = Path(stack.enter_context(TemporaryDirectory(dir=self.directory, prefix="evidence-")))
            flags = ("--metrics", METRICS)
            sensor = stack.enter_context(capturing(self.sensor, self.wire.mirror, evidence, 1, *flags))
            received = self.wire.received()
            office_s = calm_s + flood_s + _AFTER_S
            office = self._send(stack, frames, self.office.per_second, office_s, urgent=True)
            time.sleep(calm_s)
            attack = (
                self._send(stack, flood.frames(self.seed), flood.kind.per_second, flood_s) if flood else None
            )
            costliest: Costliest = {}
            while office.is_sending:
                time.sleep(_ASK_S)
                costliest = max(costliest, _costliest(), key=_demand)
            sent = office.wait(), attack.wait() if attack else None
            self.wire.settle(received + sum(one.frames for one in sent if one))
            final = sensor.stop()
            found = len(self.office.attacks.intersection(_frames_of(evidence)))
            logged = [line for line in sensor.log if "overload" in line]
        return OverloadTrial(*sent, found, final.counters, final.left_rows_out, costliest, logged)

    def _send(
        self, stack: ExitStack, frames: Any, per_second: float, seconds: float, *, urgent: bool = False
    ) -> FramePacer:
        cpu = online_cpus()[0]
        pacer = FramePacer(self.wire.source, frames, per_second, seconds, cpu, urgent=urgent)
        return stack.enter_context(closing(pacer))


def _costliest() -> Costliest:
    """Return the costliest sources of the running sensor, as far as it names any."""
    figures = ask(METRICS)
    matched = figures.by("address", c.COSTLY_MATCHED)
    return {
        address: {"cpu_ratio": cpu, "matched_ratio": matched[address]}
        for address, cpu in figures.by("address", c.COSTLY_CPU).items()
        if cpu
    }


def _demand(costliest: Costliest) -> float:
    return sum(one["cpu_ratio"] for one in costliest.values())


def _frames_of(evidence: Path) -> Iterator[bytes]:
    """Yield the frames of all evidence files."""
    for path in sorted(evidence.glob("*/*.pcap")):
        with CaptureFile(path) as file:
            for batch in file.batches():
                for start, caplen in zip(batch.start.tolist(), batch.caplen.tolist(), strict=True):
                    yield bytes(batch.buffer[start : start + caplen])
