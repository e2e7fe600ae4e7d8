"""The API beside `sensor run`: a process of its own that ends with it, and is started again when it dies.

Runs in the supervisor, whose loop calls `ApiProcess.tick`, which never waits: capture does not depend on it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from typing import Any

from sensor.config.settings import Settings

SETTINGS = (
    "rules",
    "lenient",
    "evidence",
    "listen",
    "api_user",
    "token_required",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "audit",
    "export_mib",
    "request_rate",
)
"""What `sensor serve` has a flag for."""
BACKOFF_S = 1.0
BACKOFF_MAX_S = 60.0
STABLE_S = 60.0
"""After so long a life the wait is short again."""
END_S = 10.0

log = logging.getLogger(__name__)


class ApiProcess:
    """Starts `sensor serve` on construction."""

    def __init__(self, settings: Settings) -> None:
        self._command = [sys.executable, "-m", "sensor", "serve", "--until-eof", *flags(settings)]
        self._backoff_s = BACKOFF_S
        self._due_s: float | None = None
        self._start()

    @property
    def pid(self) -> int:
        """Process id of the one that was started last."""
        return self._process.pid

    def _start(self) -> None:
        # It ends when this pipe does: with this process, however that ends. In a session of its own, so
        # that Ctrl-C does not end it first.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, start_new_session=True, env=_environment()
        )
        self._started_s = time.monotonic()
        self._due_s = None

    def tick(self) -> None:
        """Start it again where it has died, after a wait that doubles each time it does not live long."""
        now_s = time.monotonic()
        if self._due_s is not None:
            if now_s >= self._due_s:
                self._start()
            return
        if self._process.poll() is None:
            return
        self._close_pipe()
        if now_s - self._started_s >= STABLE_S:
            self._backoff_s = BACKOFF_S
        log.error(
            "the API ended (exit code %d), capture goes on; it is started again in %.0f s",
            self._process.returncode,
            self._backoff_s,
        )
        self._due_s = now_s + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)

    def close(self) -> None:
        """End it; one that does not end is killed."""
        self._close_pipe()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _close_pipe(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        self._process.stdin.close()


def flags(settings: Settings) -> list[str]:
    """Return the flags of `sensor serve` that say what these settings do."""
    return [flag for name in SETTINGS for flag in _flag(name, getattr(settings, name))]


def _environment() -> dict[str, str]:
    """Return ours without the settings file: flags say all of it, save that nothing is set."""
    return {name: value for name, value in os.environ.items() if name != "SENSOR_CONFIG"}


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    return [] if value is None else [flag, str(value)]
