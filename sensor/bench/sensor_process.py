"""The sensor under test: a ``sensor run`` of its own, its CPU time and its counters.

Runs in ``sensor bench replay``.
"""

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
from sensor.counters import Counters
from sensor.errors import SensorError
from sensor.process.tied import tied

SAMPLE_S = 0.005
_READY, _COUNTERS = "capturing on", "counters: "
_STOP_TIMEOUT_S = 120


class FinalCounts(NamedTuple):
    """The counters and costs of a sensor that has stopped."""

    counters: Counters
    lag_s: float
    """Time from the signal until everything waiting in the rings was matched and written."""
    cpu_s: dict[str, float]
    """CPU time of the workers and of the supervisor since the capture began."""


class SensorUnderTest:
    """A running sensor."""

    def __init__(self, process: subprocess.Popen[bytes], log: list[str]) -> None:
        self._process, self._log = process, log
        self._workers = dict.fromkeys(_workers_of(process.pid), 0.0)
        self._start_s = process_s(process.pid)

    @property
    def memory_mib(self) -> dict[str, float]:
        """The proportional set sizes of the workers and of the supervisor (smaps_rollup, proc(5))."""
        return {"workers": sum(map(pss_mib, self._workers)), "supervisor": pss_mib(self._process.pid)}

    def stop(self) -> FinalCounts:
        """Stop the sensor, and read its counters.

        Raises:
            SensorError: the sensor failed, or needs minutes to match the waiting frames.
        """
        signalled_s = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        line = self._counters_line(signalled_s + _STOP_TIMEOUT_S)
        lag_s = time.monotonic() - signalled_s
        supervisor_s = process_s(self._process.pid) - self._start_s
        self._process.communicate(timeout=_STOP_TIMEOUT_S)
        counters = Counters(**json.loads(line.partition(_COUNTERS)[2]))
        cpu_s = {"workers": sum(self._workers.values()), "supervisor": supervisor_s}
        return FinalCounts(counters, lag_s, cpu_s)

    def _counters_line(self, deadline_s: float) -> str:
        """Return the log line with the final counters; note the workers' CPU time until they end."""
        log, unread = _log_of(self._process), b""
        while time.monotonic() < deadline_s:
            for pid in self._workers:
                with suppress(OSError):  # the worker has ended
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
                raise SensorError(f"the sensor ended without logging its counters: {self._log[-1:]}")
        raise SensorError(f"the sensor did not stop within {_STOP_TIMEOUT_S} s: too many frames were waiting")


@contextmanager
def capturing(sensor: Sequence[str], mirror: str, evidence: Path, workers: int) -> Iterator[SensorUnderTest]:
    """Start a sensor without API, and yield it once it captures; kill it if it still runs at the end.

    ``sensor`` is the command up to ``run``; all other settings come from ``SENSOR_*`` variables.

    Raises:
        SensorError: the sensor did not start.
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
    raise SensorError(f"the sensor did not start: {log[-1] if log else 'it logged nothing'}")


def _log_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stderr is None:
        raise ValueError("the process was started without a pipe for its log")
    return process.stderr


def _workers_of(supervisor: int) -> list[int]:
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(pid) for pid in children if _comm(pid).startswith("sensor-worker")]


def _comm(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text()
