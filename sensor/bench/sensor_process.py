"""The sensor under test: ``sensor run`` as a process of its own, with what it spends and what it counts."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from sensor.bench.machine import process_s, pss_mib
from sensor.bench.tied import tied
from sensor.counters import Counters
from sensor.errors import SensorError

SAMPLE_S = 0.005
_READY, _COUNTERS = "capturing on", "counters: "
_MOST_DRAIN_S = 120


class Ended(NamedTuple):
    """What a sensor had to say when it was told to end."""

    counters: Counters
    lag_s: float
    """From the signal until all that waited in the rings was matched and written."""
    cpu_s: dict[str, float]
    """Since it captured, of the workers and of the supervisor."""


class SensorUnderTest:
    """A sensor that captures."""

    def __init__(self, process: subprocess.Popen[bytes], log: list[str]) -> None:
        self._process, self._log = process, log
        self._workers = dict.fromkeys(_workers_of(process.pid), 0.0)
        self._start_s = process_s(process.pid)

    @property
    def memory_mib(self) -> dict[str, float]:
        """Proportional set sizes (smaps_rollup, proc(5)), of the workers and of the supervisor."""
        return {"workers": sum(map(pss_mib, self._workers)), "supervisor": pss_mib(self._process.pid)}

    def end(self) -> Ended:
        """Tell it to end, and read what it counted.

        Raises:
            SensorError: It failed, or takes minutes to match what waits.
        """
        told_s = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        line = self._counters_line(told_s + _MOST_DRAIN_S)
        lag_s = time.monotonic() - told_s
        supervisor_s = process_s(self._process.pid) - self._start_s
        self._process.communicate(timeout=_MOST_DRAIN_S)
        counters = Counters(**json.loads(line.partition(_COUNTERS)[2]))
        return Ended(counters, lag_s, {"workers": sum(self._workers.values()), "supervisor": supervisor_s})

    def _counters_line(self, deadline_s: float) -> str:
        """Follow the log to the final counters, and the workers' CPU time to their end."""
        log, unread = _log_of(self._process), b""
        while time.monotonic() < deadline_s:
            for pid in self._workers:
                with suppress(OSError):  # it has ended
                    self._workers[pid] = process_s(pid)
            if not select.select([log], [], [], SAMPLE_S)[0]:
                continue
            data = os.read(log.fileno(), 65536)
            *lines, unread = (unread + data).split(b"\n")
            self._log += [line.decode(errors="replace") for line in lines]
            for line in self._log[-len(lines) :] if lines else []:
                if _COUNTERS in line:
                    return line
            if not data:
                raise SensorError(f"the sensor ended before its counters: {self._log[-1:]}")
        raise SensorError(f"the sensor did not match what waited within {_MOST_DRAIN_S} s")


@contextmanager
def capturing(sensor: Sequence[str], mirror: str, evidence: Path, workers: int) -> Iterator[SensorUnderTest]:
    """Start it, without API, and wait until it captures; it is killed if still there in the end.

    ``sensor`` is the command up to ``run``; settings that are not given come from ``SENSOR_*`` variables.

    Raises:
        SensorError: It did not start.
    """
    flags = ("-i", mirror, "--evidence", str(evidence), "--action", "drop", "--no-api")
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
    raise SensorError(f"the sensor did not start: {log[-1] if log else 'it said nothing'}")


def _log_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stderr is None:
        raise ValueError("started without a pipe")
    return process.stderr


def _workers_of(supervisor: int) -> list[int]:
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(pid) for pid in children if _comm(pid).startswith("sensor-worker")]


def _comm(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text()
