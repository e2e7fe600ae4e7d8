"""The sensor under test: a ``sensor run`` of its own, its CPU time and its counters.

Runs in ``sensor bench replay`` and ``overload``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from sensor.bench.machine import process_s, pss_mib
from sensor.counters import Counters
from sensor.errors import SensorError
from sensor.process.tied import tied

SAMPLE_S = 0.005
CHILDREN = {"workers": "sensor-worker", "indexer": "sensor-index"}
"""Stages that are child processes of the supervisor, and how the names of these begin."""
_READY, _COUNTERS, _ROWS_LEFT_OUT = "capturing on", "counters: ", "the index does not keep up"
_STOP_TIMEOUT_S = 120


class FinalCounts(NamedTuple):
    """The counters and costs of a sensor that has stopped."""

    counters: Counters
    match_lag_s: float
    """Time from the signal until everything waiting in the rings was matched."""
    lag_s: float
    """Time from the signal until it was written and indexed, too."""
    left_rows_out: bool
    """True if the index did not keep up: rows were left out, to be added later."""
    cpu_s: dict[str, float]
    """CPU time of each stage since the capture began."""


class SensorUnderTest:
    """A running sensor; ``log`` has the lines that were read from its log so far."""

    def __init__(self, process: subprocess.Popen[bytes], log: list[str]) -> None:
        self._process, self.log = process, log
        self._children = {stage: _children_of(process.pid, name) for stage, name in CHILDREN.items()}
        pids = [process.pid, *(pid for pids in self._children.values() for pid in pids)]
        self._start_s = {pid: process_s(pid) for pid in pids}
        self._now_s = dict(self._start_s)
        self._matched_s: float | None = None

    @property
    def memory_mib(self) -> dict[str, float]:
        """The proportional set size of each stage (smaps_rollup, proc(5))."""
        children = {stage: sum(map(pss_mib, pids)) for stage, pids in self._children.items()}
        return children | {"supervisor": pss_mib(self._process.pid)}

    def stop(self) -> FinalCounts:
        """Stop the sensor, and read its counters.

        Raises:
            SensorError: the sensor failed, or needs minutes to match the waiting frames.
        """
        signalled_s = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        line = self._counters_line(signalled_s + _STOP_TIMEOUT_S)
        ended_s = time.monotonic()
        self._note_cpu_times()
        self._process.communicate(timeout=_STOP_TIMEOUT_S)
        return FinalCounts(
            Counters(**json.loads(line.partition(_COUNTERS)[2])),
            (self._matched_s or ended_s) - signalled_s,
            ended_s - signalled_s,
            any(_ROWS_LEFT_OUT in line for line in self.log),
            {stage: sum(map(self._spent_s, pids)) for stage, pids in self._children.items()}
            | {"supervisor": self._spent_s(self._process.pid)},
        )

    def _spent_s(self, pid: int) -> float:
        return self._now_s[pid] - self._start_s[pid]

    def _note_cpu_times(self) -> None:
        """Note the CPU time of all processes that have not ended, and when the last worker has."""
        ended = set()
        for pid in self._now_s:
            try:
                self._now_s[pid] = process_s(pid)
            except OSError:
                ended.add(pid)
        if self._matched_s is None and ended.issuperset(self._children["workers"]):
            self._matched_s = time.monotonic()

    def _counters_line(self, deadline_s: float) -> str:
        """Return the log line with the final counters; note CPU times until then."""
        log, unread = _log_of(self._process), b""
        while time.monotonic() < deadline_s:
            self._note_cpu_times()
            if not select.select([log], [], [], SAMPLE_S)[0]:
                continue
            data = os.read(log.fileno(), 65536)
            *lines, unread = (unread + data).split(b"\n")
            self.log += [line.decode(errors="replace") for line in lines]
            for line in self.log[-len(lines) :] if lines else []:
                if _COUNTERS in line:
                    return line
            if not data:
                raise SensorError(f"the sensor ended without logging its counters: {self.log[-1:]}")
        raise SensorError(f"the sensor did not stop within {_STOP_TIMEOUT_S} s: too many frames were waiting")


@contextmanager
def capturing(
    sensor: Sequence[str], mirror: str, evidence: Path, workers: int, *more: str
) -> Iterator[SensorUnderTest]:
    """Start a sensor without API, and yield it once it captures; kill it if it still runs at the end.

    ``sensor`` is the command up to ``run``, ``more`` are flags; all other settings come from ``SENSOR_*``
    variables.

    Raises:
        SensorError: the sensor did not start.
    """
    flags = ("-i", mirror, "--evidence", str(evidence), "--action", "drop", "--no-api", *more)
    environment = {**os.environ, "SENSOR_WORKERS": str(workers)}
    command = tied(*sensor, "run", *flags)
    with subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0, env=environment) as process:
        try:
            yield SensorUnderTest(process, _until_ready(process))
        finally:
            process.kill()


def _until_ready(process: subprocess.Popen[bytes]) -> list[str]:
    log: list[str] = []
    for line in _log_of(process):
        log.append(line.decode(errors="replace").rstrip())
        if _READY in log[-1]:
            return log
    raise SensorError(f"the sensor did not start: {log[-1] if log else 'it logged nothing'}")


def _log_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stderr is None:
        raise ValueError("the process was started without a pipe for its log")
    return process.stderr


def _children_of(supervisor: int, name: str) -> list[int]:
    """Return the children whose names begin like this."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(pid) for pid in children if _comm(pid).startswith(name)]


def _comm(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text()
