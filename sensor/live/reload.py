"""Rules for use: loaded at the start, and anew beside the running set, in a thread of the supervisor.

Compiling takes seconds and lets go of the interpreter's lock, so capture goes on meanwhile. The
supervisor takes the finished set between two batches: no packet ever meets half of one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sensor.capture.program import Generation, KernelPlan
from sensor.errors import KernelError, RulesError
from sensor.metrics.rule_loads import RuleLoads
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.ready import Ready, make_ready

log = logging.getLogger(__name__)


class Compiled(NamedTuple):
    """A rule set, ready for the workers, and the kernel's program for it."""

    ready: Ready
    generation: Generation


class Reloader:
    """Loads the rules anew when asked; a request during a load is another load after it."""

    def __init__(
        self,
        directory: Path,
        http: HttpReading,
        for_kernel: Callable[[KernelPlan], Generation],
        *,
        lenient: bool,
    ) -> None:
        """``for_kernel`` compiles the rules for the kernel; it is called in the thread."""
        self._directory = directory
        self._lenient = lenient
        self._http = http
        self._for_kernel = for_kernel
        self.loads = RuleLoads()
        self._asked = False
        self._thread: threading.Thread | None = None
        self._finished: Compiled | None = None

    def request(self) -> None:
        """Ask for a load; safe in a signal handler."""
        self._asked = True

    @property
    def is_loading(self) -> bool:
        """Whether rules were asked for that `take` has not returned yet, and that were not refused."""
        is_at_it = self._thread is not None and self._thread.is_alive()
        return is_at_it or self._asked or self._finished is not None

    def take(self) -> Compiled | None:
        """Give the set that has been finished since the last call, if any; start what was asked for."""
        if self._thread and self._thread.is_alive():
            return None
        finished, self._finished = self._finished, None
        if self._asked:
            self._asked = False
            self._thread = threading.Thread(target=self._load, name="reload", daemon=True)
            self._thread.start()
        return finished

    def _load(self) -> None:
        started_s = time.monotonic()
        try:
            ready = make_ready(self._directory, self._http, lenient=self._lenient)
            loaded_s = time.monotonic() - started_s
            self._finished = Compiled(ready, self._for_kernel(ready.plan))
        except (RulesError, KernelError) as error:
            self.loads.failed += 1
            self.loads.is_stale = True
            log.error("rules not reloaded, the old ones stay: %s", error)  # noqa: TRY400 - the line says it all
        else:
            self.loads.succeeded(loaded_s)
            log.info("%d rules ready in %.1f s", len(ready.rules), time.monotonic() - started_s)
