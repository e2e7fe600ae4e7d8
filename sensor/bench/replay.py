"""The highest rate of some captures at which no frame is lost. Runs in ``sensor bench replay``, as root.

Trials have a fixed length, and each has a sensor of its own. The rate of a trial is the one the sender
really reached. The highest rate of the sender is measured first, with no sensor, so that its limit is not
mistaken for the sensor's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sensor.bench.effort import ReplayEffort, Step
from sensor.bench.kernel_sender import KernelSender
from sensor.bench.machine import machine
from sensor.bench.paced_capture import write_paced_capture
from sensor.bench.replay_search import ReplaySearch
from sensor.bench.tcpreplay import Tcpreplay
from sensor.bench.trial import Rig
from sensor.bench.wire import Wire
from sensor.capture.cpus import online_cpus
from sensor.capture.program import check_privileges
from sensor.errors import SensorError

SENSOR = (sys.executable, "-m", "sensor")
SENDERS: dict[str, type[Tcpreplay] | type[KernelSender]] = {"tcpreplay": Tcpreplay, "live": KernelSender}
NOISY_PERCENT = 10
UNSTEADY = 0.1
"""Spread of the repeats, relative to their median, above which the result has a warning."""


class Workload(NamedTuple):
    """Captures that are replayed together, and the name of the result."""

    name: str
    captures: Sequence[Path]


def measure(
    workloads: Sequence[Workload],
    wire: AbstractContextManager[Wire],
    effort: ReplayEffort,
    step: Step,
    *,
    workers: Sequence[int] = (1,),
    generator: str = "tcpreplay",
    directory: Path | None = None,
    sensor: Sequence[str] = SENSOR,
) -> dict[str, Any]:
    """Measure each workload with each number of workers, and with as many senders, each on its own CPU.

    Raises:
        PrivilegeError: the command does not run as root.
        CaptureFileError: a capture cannot be replayed.
        SensorError: the sensor or the sender failed, or no frame arrives.
    """
    check_privileges()
    if max(workers) > len(online_cpus()):
        raise SensorError(f"{max(workers)} workers need as many CPUs; this machine has {len(online_cpus())}")
    where = machine()
    sender_type = SENDERS[generator]
    rows = []
    with wire as ends, TemporaryDirectory(prefix="sensor-bench-", dir=directory) as temporary:
        for workload in workloads:
            for count in workers:
                with TemporaryDirectory(dir=temporary) as files:
                    capture = write_paced_capture(
                        workload.captures, Path(files), count, ends.mtu, sender_type.most_frames
                    )
                    sender = sender_type(ends.source, capture.shares, capture.share_frames)
                    rig = Rig(sensor, ends, sender, count, online_cpus()[:count], Path(files))
                    rows.append(ReplaySearch(workload.name, capture, rig, effort, step).run())
    return {
        "bench": "replay",
        "machine": where,
        "trial_seconds": effort.seconds,
        "warnings": list(_warnings(where, rows)),
        "rows": rows,
    }


def _warnings(where: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the reasons why figures may be worse than those of an idle machine."""
    busy = where["busy_with_others_percent"]
    if busy > NOISY_PERCENT:
        yield f"other programs kept the machine {busy} % busy before the measurement"
    steal = max((trial["steal_percent"] for row in rows for trial in row["trials"]), default=0)
    if steal > NOISY_PERCENT:
        yield f"the hypervisor gave up to {steal} % of the CPU time to other guests"
    for row in rows:
        title = f"{row['traffic']}, {row['workers']} worker{'s' * (row['workers'] > 1)}"
        spread = row.get("zero_loss_pps_spread")
        if spread and spread["most"] - spread["least"] > UNSTEADY * spread["median"]:
            yield f"{title}: repeats differ by more than {UNSTEADY:.0%}"
        if row["generator_ceiling_pps"] * 0.95 < row["zero_loss_pps"]:
            yield f"{title}: {row['generator']} cannot send faster"
