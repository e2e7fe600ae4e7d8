"""The API process beside `sensor run`: it ends with the supervisor, and is started again when it dies.

Runs in the supervisor, whose loop calls `tick`. That never waits: capture does not depend on the API.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import IO, Any

from sensor.config.definitions import definitions_of
from sensor.config.settings import Settings
from sensor.process.child import Backoff, ChildProcess

SETTINGS = tuple(setting.name for setting in definitions_of("serve"))
"""Settings that `sensor serve` has a flag for."""
BACKOFF_S, BACKOFF_MAX_S = 1.0, 60.0
STABLE_S = 60.0
END_S = 10.0


class ApiProcess(ChildProcess):
    """A child process that runs `sensor serve`; its standard input is a pipe from the supervisor.

    It ends when the pipe is closed, so it ends with the supervisor, even if that is killed.
    """

    _pipe: IO[bytes] | None

    def __init__(self, settings: Settings) -> None:
        """Start it."""
        self._command = [sys.executable, "-m", "sensor", "serve", "--until-eof", *flags(settings)]
        delay = Backoff(BACKOFF_S, BACKOFF_MAX_S, STABLE_S)
        super().__init__("the API", self._execute, delay, self._close_pipe)

    def close(self, patience_s: float = END_S) -> None:
        """Ask the process to end; kill it after ``patience_s``."""
        self._close_pipe()
        super().close(patience_s)

    def _execute(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the supervisor, which ends this process last
            env=_environment(),
        )
        self._pipe = process.stdin
        return process

    def _close_pipe(self) -> None:
        if self._pipe:
            self._pipe.close()


def flags(settings: Settings) -> list[str]:
    """Return the flags with which `sensor serve` has the same settings."""
    return [flag for name in SETTINGS for flag in _flag(name, getattr(settings, name))]


def _environment() -> dict[str, str]:
    """Return our environment without the settings file, which may have changed: the flags are complete."""
    return {name: value for name, value in os.environ.items() if name != "SENSOR_CONFIG"}


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    if isinstance(value, tuple):
        return [part for one in value for part in (flag, str(one))]
    return [] if value is None else [flag, str(value)]
