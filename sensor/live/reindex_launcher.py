"""Starts the reindexer for the indexer, which lacks the rights. Runs in the supervisor, which never waits.

The reindexer needs a user of its own, and rules that perhaps only the supervisor can read. The indexer asks
for it by a number in its reports, and gets the socket to talk to it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sensor.config.settings import Settings
from sensor.live.reindex_task import Task
from sensor.process.child import blocked, finish

log = logging.getLogger(__name__)


class ReindexLauncher:
    """Keeps at most one reindexer running: the one that the indexer wants."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        """Prepare the task; ``directory`` is that of the device."""
        self._task = Task(settings, directory).as_json()
        self._wanted = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._killed: list[subprocess.Popen[bytes]] = []
        self._socket: socket.socket | None = None
        """The indexer's end, until it is sent."""
        self._is_told = True

    @property
    def pid(self) -> int | None:
        """Process id of the reindexer; None if there is none."""
        return self._process.pid if self._process else None

    def tick(self, wanted: int, answer: Callable[[int, socket.socket | None], object]) -> None:
        """Start the reindexer with this number if it is another than before; 0 ends the one that runs.

        ``answer`` sends the number and the socket to the indexer, or None if no process could be started. If
        it raises an `OSError`, the next call tries again.
        """
        self._killed = [process for process in self._killed if process.poll() is None]
        if self._process:
            self._process.poll()  # it leaves no zombie
        if wanted != self._wanted:
            self.stop()
            self._wanted = wanted
            if wanted:
                self._start()
                self._is_told = False
        if not self._is_told:
            with suppress(OSError):
                answer(wanted, self._socket)
                self._is_told = True
                self._close_socket()

    def stop(self) -> None:
        """Kill the reindexer, if there is one, and do not wait for its end."""
        self._wanted, self._is_told = 0, True
        self._close_socket()
        if self._process:
            self._process.kill()
            self._killed.append(self._process)
            self._process = None

    def close(self) -> None:
        """Kill the reindexer, and wait some seconds for its end."""
        self.stop()
        for process in self._killed:
            finish(process)

    def _start(self) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            log.warning("the index cannot be rebuilt: no socket can be opened (%s)", error.strerror)
            return
        with theirs:
            try:
                self._process = _execute(self._task, theirs.fileno())
                self._socket = ours
            except OSError as error:
                ours.close()
                log.warning("the index cannot be rebuilt: no process can be started (%s)", error.strerror)

    def _close_socket(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None


def _execute(task: bytes, channel: int) -> subprocess.Popen[bytes]:
    """Start the process; its standard input is a file with the task."""
    with os.fdopen(os.memfd_create("sensor-task"), "w+b") as file:
        file.write(task)
        file.seek(0)
        command = [sys.executable, "-m", "sensor.live.reindex_process", str(channel), str(os.getpid())]
        with blocked([signal.SIGINT]):  # inherited
            return subprocess.Popen(command, stdin=file, pass_fds=[channel])
