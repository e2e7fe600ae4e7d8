"""The child process that deletes evidence. Runs in the supervisor, whose loop calls `RetentionProcess.tick`.

The supervisor never waits for it. When it dies, it is started again, and the index is compared with the
files, because nobody may know what it has deleted last.
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
from sensor.evidence.holds import create_journal
from sensor.evidence.message import MalformedMessageError
from sensor.evidence.retention import LIMIT_NAMES, Deleted, LimitName, Limits, Space
from sensor.live.retention_channel import MESSAGE_BYTES, RetentionConfig, RetentionReport
from sensor.process.child import Backoff, ChildProcess, blocked

COMMAND = [sys.executable, "-m", "sensor.live.retainer"]
BACKOFF_S, BACKOFF_MAX_S, STABLE_S = 1.0, 60.0, 60.0
MOST_SILENT_TICKS = 600
"""Ticks in a row without a report, until the process is killed: some two minutes.

Deleting large files may take long on a slow disk.
"""
END_S = 5.0
_NOT_FOR_RETENTION = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOST_REPORTS = 100

log = logging.getLogger(__name__)


class RetentionProcess(ChildProcess):
    """A child process that enforces the limits in the directory of one device."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        on_deleted: Callable[[list[str]], object],
        on_unknown: Callable[[], object],
    ) -> None:
        """Start it.

        ``on_deleted`` is called with the names of deleted files, ``on_unknown`` if some may be unknown.
        """
        limits = Limits(
            settings.retain_days,
            settings.retain_gib,
            settings.retain_free_percent,
            settings.retain_threat_days,
            settings.retain_threat_gib,
        )
        create_journal(directory)
        self._config = RetentionConfig(directory, limits)
        self._on_deleted, self._on_unknown = on_deleted, on_unknown
        self._ended = _nothing()
        self.space = Space()
        delay = Backoff(BACKOFF_S, BACKOFF_MAX_S, STABLE_S)
        super().__init__("the process that deletes evidence", self._execute, delay, self._settle)

    def _execute(self) -> subprocess.Popen[bytes]:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._report = _nothing()
        self._silent_ticks = 0
        with theirs:
            self._channel.send(self._config.pack())
            with blocked(_NOT_FOR_RETENTION):  # inherited
                return subprocess.Popen(
                    [*COMMAND, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )

    @property
    def deleted(self) -> dict[LimitName, Deleted]:
        """Files and bytes deleted since the start, by limit."""
        sums = {
            name: zip(self._ended.deleted[name], self._report.deleted[name], strict=True)
            for name in LIMIT_NAMES
        }
        return {name: Deleted(*map(sum, pairs)) for name, pairs in sums.items()}

    @property
    def failures(self) -> int:
        """Number of times the directory could not be read or a file could not be deleted."""
        return self._ended.failures + self._report.failures

    def tick(self) -> None:
        """Read reports; replace a process that has died or stalled. Call this several times per second."""
        self._read_reports()
        self._silent_ticks += 1
        if self._silent_ticks == MOST_SILENT_TICKS:
            log.error("the process that deletes evidence has stalled and is killed")
            self._process.kill()
        super().tick()

    def close(self, patience_s: float = END_S) -> None:
        """Let the process end; kill it after ``patience_s``."""
        self._on_unknown = lambda: None  # it reports everything before it ends
        with suppress(OSError):  # it has died, and the channel is closed until it is started again
            self._channel.shutdown(socket.SHUT_WR)
        super().close(patience_s)

    def _read_reports(self) -> None:
        """Read what the process has reported; it is killed if a report is malformed."""
        try:
            for _ in range(_MOST_REPORTS):
                data = self._channel.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
                if not data:
                    return
                self._report = RetentionReport.of(data)
                self._silent_ticks = 0
                self.space = self._report.space
                if self._report.names:
                    self._on_deleted(self._report.names)
        except OSError:  # there is none, or the process has died
            return
        except MalformedMessageError as error:
            log.error("the process that deletes evidence sent %s and is killed", error)  # noqa: TRY400
            self._process.kill()

    def _settle(self) -> None:
        """Take over the figures of a process that has ended."""
        self._read_reports()
        self._ended = RetentionReport(self.deleted, self.failures, self.space, [])
        self._report = _nothing()
        self._channel.close()
        self._on_unknown()


def _nothing() -> RetentionReport:
    return RetentionReport(dict.fromkeys(LIMIT_NAMES, Deleted()), 0, Space(), [])
