"""Child processes: starting one, starting it again when it dies, and ending it. Used in the supervisor."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from subprocess import Popen, TimeoutExpired
from typing import Any, NoReturn

from sensor.text import shown_lines

KILLED_S = 5.0
"""Time that a killed process gets to end."""
RETRY_S = 1.0
"""Delay after a start that failed, as for want of memory or of process ids."""

Delay = Callable[[float], float]
"""Maps the seconds that a process lived to the seconds until the next one is started."""

log = logging.getLogger(__name__)


@contextmanager
def blocked(signals: Iterable[int]) -> Iterator[None]:
    """Block signals in this thread for a time; a process that is started meanwhile has them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class FunctionProcess:
    """A process that runs a Python function, with those methods of `subprocess.Popen` that are used here.

    Its parent never waits longer than it asked to, not even when it ends itself, as it would for a
    `multiprocessing.Process`: the kernel may hold a process that was killed.
    """

    def __init__(self, function: Callable[..., None], arguments: tuple[Any, ...], name: str) -> None:
        """Fork it. It ends with exit code 1, and a traceback in the log, if the function raises an error.

        Raises:
            OSError: The kernel starts no more processes.
        """
        self._name = name
        self._exit_code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _run(function, arguments, name)

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        if self._exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._exit_code = os.waitstatus_to_exitcode(status)
        return self._exit_code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process and return its exit code.

        Raises:
            TimeoutExpired: It still runs after ``timeout`` seconds.
        """
        if self.poll() is None and timeout != 0:
            descriptor = os.pidfd_open(self.pid)
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                poll.poll(None if timeout is None else timeout * 1000)
            finally:
                os.close(descriptor)
        code = self.poll()
        if code is None:
            raise TimeoutExpired(self._name, timeout or 0)
        return code

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _run(function: Callable[..., None], arguments: tuple[Any, ...], name: str) -> NoReturn:
    """Run a function in a process that was just forked, and end the process."""
    code = 1
    try:
        function(*arguments)
        code = 0
    except BaseException:
        sys.stderr.write(f"{name}:\n{shown_lines(traceback.format_exc())}\n")
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


StartedProcess = Popen[bytes] | FunctionProcess


def finish(process: StartedProcess, patience_s: float = 0.0) -> None:
    """Wait for the end of a process; kill it after ``patience_s``, and then wait for `KILLED_S` at most."""
    try:
        process.wait(patience_s)
    except TimeoutExpired:
        process.kill()
        with suppress(TimeoutExpired):  # the kernel holds it
            process.wait(KILLED_S)


class Backoff:
    """A delay that doubles each time a process dies early, up to a limit."""

    def __init__(self, first_s: float, longest_s: float, stable_s: float) -> None:
        """Start at ``first_s``, and again after a process that lived for ``stable_s``."""
        self._first_s, self._longest_s, self._stable_s = first_s, longest_s, stable_s
        self._next_s = first_s

    def __call__(self, lived_s: float) -> float:
        """Return the seconds until the next start."""
        delay_s = self._first_s if lived_s >= self._stable_s else self._next_s
        self._next_s = min(delay_s * 2, self._longest_s)
        return delay_s


class ChildProcess:
    """A process that is started again whenever it dies, until it is closed.

    Its parent calls `tick` regularly, which never waits.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], StartedProcess],
        delay: Delay = lambda _lived_s: 0.0,
        clean_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the process.

        ``name`` is for the log: "the API". ``clean_up`` is called once after the end of each process.
        """
        self._name, self._start, self._delay, self._clean_up = name, start, delay, clean_up
        self._process = start()
        self._started_s = time.monotonic()
        self._due_s: float | None = None
        """When the next process is started; None while one runs."""

    @property
    def pid(self) -> int:
        """Process id of the process that was started last."""
        return self._process.pid

    def tick(self) -> None:
        """Start another process if the last one died and its delay is over."""
        if self._due_s is None:
            code = self._process.poll()
            if code is None:
                return
            self._clean_up()
            delay_s = self._delay(time.monotonic() - self._started_s)
            self._due_s = time.monotonic() + delay_s
            log.error(
                "%s died (exit code %d); capture continues, restart in %.0f s", self._name, code, delay_s
            )
        if time.monotonic() >= self._due_s:
            self._restart()

    def replace(self) -> None:
        """Kill the process; `tick` starts another one."""
        if self._due_s is None:
            self._process.kill()

    def close(self, patience_s: float = 0.0) -> None:
        """Wait for the end of the process; kill it after ``patience_s``."""
        if self._due_s is None:
            finish(self._process, patience_s)
            self._clean_up()

    def _restart(self) -> None:
        try:
            self._process = self._start()
        except OSError as error:
            log.error("%s cannot be started, next try in %.0f s: %s", self._name, RETRY_S, error)  # noqa: TRY400
            self._due_s = time.monotonic() + RETRY_S
        else:
            self._started_s = time.monotonic()
            self._due_s = None
