"""Reloads the rules while capture continues. Runs in a thread of the supervisor.

Compiling takes seconds, in a process of its own (`sensor.rules.compilation`), so capture continues meanwhile.
The supervisor puts a finished rule set in force between two batches: no packet is matched by half of one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sensor.capture.plan_maps import KernelPlan
from sensor.capture.program import LoadedProgram
from sensor.errors import KernelError, RulesError, SensorError
from sensor.live.reload_board import ReloadState
from sensor.metrics.rule_loads import RuleLoads
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.progress import Progress
from sensor.rules.ready import Ready, make_ready
from sensor.text import count_of

log = logging.getLogger(__name__)


class Compiled(NamedTuple):
    """A rule set, ready for the workers, and the XDP program compiled for it."""

    ready: Ready
    program: LoadedProgram


class Reloader:
    """Loads the rules when asked; a request during a load starts another load after it."""

    def __init__(
        self,
        directory: Path,
        http: HttpReading,
        compile_plan: Callable[[KernelPlan], LoadedProgram],
        *,
        lenient: bool,
    ) -> None:
        """Remember what to load; ``compile_plan`` compiles the XDP program, and is called in the thread."""
        self._directory = directory
        self._lenient = lenient
        self._http = http
        self._compile_plan = compile_plan
        self.loads = RuleLoads()
        self._is_requested = False
        self._thread: threading.Thread | None = None
        self._finished: Compiled | None = None
        self._refusal: SensorError | None = None
        self._progress = Progress()
        self._state = ReloadState(os.getpid())

    def request(self) -> None:
        """Ask for a load; safe in a signal handler."""
        self._is_requested = True

    @property
    def is_loading(self) -> bool:
        """True from a request until `poll` returns its rules or the load fails."""
        is_running = self._thread is not None and self._thread.is_alive()
        return is_running or self._is_requested or self._finished is not None

    def poll(self) -> Compiled | None:
        """Start a requested load; return the rule set that was finished since the last call, if any."""
        if self._thread and self._thread.is_alive():
            return None
        finished, self._finished = self._finished, None
        refusal, self._refusal = self._refusal, None
        if refusal:
            self._end(refusal.exit_code, f"rules not reloaded, the old ones stay in force: {refusal}")
        elif self._state.begun > self._state.ended and not finished:
            self._end(1, "rules not reloaded, the old ones stay in force; see the log of the sensor")
        if self._is_requested and not finished:  # a request meanwhile is for the rules after these
            self._is_requested = False
            self._state = self._state._replace(begun=self._state.begun + 1)
            self._progress = Progress()
            self._thread = threading.Thread(target=self._load, name="reload", daemon=True)
            self._thread.start()
        return finished

    def note_in_force(self, changes: str) -> None:
        """Note that the rules that `poll` returned are in force; ``changes`` says what is new."""
        self._end(0, changes)

    @property
    def state(self) -> ReloadState:
        """The outcome of the requests; another one at each call while a load is under way."""
        if self._state.begun > self._state.ended:
            beat = self._state.beat + 1
            self._state = self._state._replace(beat=beat, progress=self._progress.words)
        return self._state

    def _end(self, exit_code: int, text: str) -> None:
        self._state = self._state._replace(
            ended=self._state.begun, exit_code=exit_code, text=text, progress=""
        )

    def _note_progress(self, progress: Progress) -> None:
        self._progress = progress

    def _load(self) -> None:
        started_s = time.monotonic()
        try:
            ready = make_ready(
                self._directory, self._http, lenient=self._lenient, yields=True, watch=self._note_progress
            )
            loaded_s = time.monotonic() - started_s
            self._finished = Compiled(ready, self._compile_plan(ready.plan))
        except (RulesError, KernelError) as error:
            self._refusal = error
            self.loads.failed += 1
            self.loads.is_stale = True
            log.error("rules not reloaded, the old ones stay in force: %s", error)  # noqa: TRY400 - no traceback for a user's fault
        else:
            self.loads.succeeded(loaded_s)
            log.info("%s ready in %.1f s", count_of(len(ready.rules), "rule"), time.monotonic() - started_s)
