"""A campaign: fuzzers run in processes of their own, and what they find is counted and kept.

A process that crashes or hangs in a round is a fault of that round; the next process goes on after it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz import sanitised
from tests.fuzz.fuzzers import Fuzzer
from tests.fuzz.rounds import Fault

ROOT = Path(__file__).parents[2]
HANG_S = 300
"""No round takes so long, even on a busy machine and with sanitisers."""
MOST_FAULTS = 20
"""Faults after which a fuzzer stops."""
_REPORT_BYTES = 8000
"""Part of a crashed process' messages that is kept, from their start: the sanitiser's report."""


@dataclass
class Result:
    """The result of one fuzzer."""

    rounds: int = 0
    comparisons: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Campaign:
    """The parts of a campaign that all its fuzzers share."""

    seed: int
    faults: Path
    """Directory for the inputs that show faults, one directory per fault."""
    library: Path | None = None
    """The native code with sanitisers, if a fuzzer needs it."""
    is_stopped: bool = False
    """True once `stop` was called."""
    _processes: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def run(self, fuzzer: Fuzzer, seconds: float, first: int = 0, last: int = 1 << 62) -> Result:
        """Run the rounds from ``first`` up to ``last``, until the time is over."""
        result = Result()
        end_s = time.monotonic() + seconds
        while first < last and len(result.faults) < MOST_FAULTS and not self.is_stopped:
            first = self._run_process(fuzzer, end_s - time.monotonic(), first, last, result)
            if time.monotonic() >= end_s:
                break
        return result

    def stop(self) -> None:
        """End all fuzzers now; what they have found so far is their result."""
        self.is_stopped = True
        for process in list(self._processes):
            process.kill()

    def _run_process(self, fuzzer: Fuzzer, seconds: float, first: int, last: int, result: Result) -> int:
        """Run one process, and return the round after its last one."""
        numbers = [str(number) for number in (self.seed, first, last, seconds)]
        arguments = [fuzzer.module, fuzzer.name, *numbers, str(self.faults.absolute())]
        with tempfile.TemporaryFile() as messages, tempfile.TemporaryDirectory() as scratch:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.child", *arguments],
                stdout=subprocess.PIPE,
                stderr=messages,
                cwd=ROOT,
                env=self._environment(fuzzer) | {"TMPDIR": scratch},
                start_new_session=True,  # ^C stops the campaign, not the process in the middle of a round
            )
            self._processes.add(process)
            try:
                number, end = _collect(process, first, result)
            finally:
                process.kill()
                process.communicate()
                self._processes.remove(process)
            if end and not self.is_stopped:
                messages.seek(0)
                text = f"{end}: {messages.read(_REPORT_BYTES).decode(errors='replace')}"
                Fault(text, {}).save(self.faults / f"{fuzzer.name}-{self.seed}-{number}-end")
                result.faults.append(f"round {number}: {text}")
        return last if number < first else number + 1

    def _environment(self, fuzzer: Fuzzer) -> dict[str, str]:
        environment = dict(os.environ)
        if fuzzer.is_sanitised:
            if self.library is None:
                raise ValueError("this fuzzer needs the sanitised library")
            environment = sanitised.environment(self.library)
        paths = [ROOT, ROOT / "tests", *(ROOT / "tests" / room for room in ("kernel", "evidence", "api"))]
        return environment | {"PYTHONPATH": os.pathsep.join(map(str, paths))}


def _collect(process: subprocess.Popen[bytes], first: int, result: Result) -> tuple[int, str]:
    """Add the results of a process; return its last round, and how it ended if that is a fault.

    The round is the one before ``first`` if the process began none.
    """
    number, is_inside = first - 1, False
    while line := _next_line(process):
        event: dict[str, Any] = json.loads(line)
        is_inside = "begin" in event
        number = event["begin"] if is_inside else event["end"]
        if not is_inside:
            result.rounds += 1
            result.comparisons += event["comparisons"]
            result.faults += [f"round {number}: {text}" for text in event["faults"]]
            if len(result.faults) >= MOST_FAULTS:
                return number, ""
    if line is None:
        process.send_signal(signal.SIGABRT)  # it writes where it stands
        process.wait(HANG_S)
        return number, f"hangs for {HANG_S} s"
    code = process.wait(HANG_S)
    return number, f"ends the process with code {code}" if is_inside or code else ""


def _next_line(process: subprocess.Popen[bytes]) -> bytes | None:
    """Return the next line, nothing at the end, or None if there is none for too long."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], HANG_S)
    return process.stdout.readline() if readable else None
