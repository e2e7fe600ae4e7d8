"""Rebuild the index while capture runs. Runs in the supervisor, with a child process that matches."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from sensor.config.settings import Settings
from sensor.errors import SensorError
from sensor.evidence.day_writer import Gap
from sensor.evidence.index_schema import Day
from sensor.evidence.reconcile import fill
from sensor.evidence.writer import EvidenceWriter
from sensor.process.child import FunctionProcess, finish
from sensor.reindex import Part, Rematcher

TURN_S = 0.02
"""Time one call of `Reindexer.tick` may spend on received parts, so that capture does not wait longer."""
PAUSE_S = 60.0
"""Time between two searches for gaps: after a failure, or after a running capture left a new gap."""

log = logging.getLogger(__name__)


class Reindexer:
    """Fills the gaps of the index while capture runs.

    A child process reads and matches the records; `tick` writes the rows for what it sends.
    """

    def __init__(self, settings: Settings, writer: EvidenceWriter) -> None:
        self._settings = settings
        self._writer = writer
        self._child: FunctionProcess | None = None
        self._connection: Connection | None = None
        self._next_s = 0.0
        self.remaining_bytes = 0
        """Bytes of evidence files that are known to have no rows yet."""
        self.done_bytes = 0
        """Bytes of evidence files that were given rows since the start."""

    @property
    def is_busy(self) -> bool:
        """True while gaps are being filled."""
        return self._child is not None

    def tick(self) -> None:
        """Do a small part of the work. The supervisor calls this several times per second."""
        if self._connection is not None:
            self._receive(self._connection)
        elif self._writer.index.is_behind and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + PAUSE_S
            gaps = self._writer.reconcile()
            if gaps:
                self._start(gaps)

    def close(self) -> None:
        """Stop the child; the gaps it has not filled are left for the next start."""
        if self._child and self._connection:
            self._connection.close()
            finish(self._child)
        self._child = self._connection = None

    def _start(self, gaps: Sequence[tuple[Day, Gap]]) -> None:
        size = sum(gap.end - gap.start for _, gap in gaps)
        self.remaining_bytes = size
        log.info("rebuilding the index for %d bytes of evidence in %d gaps", size, len(gaps))
        context = multiprocessing.get_context("spawn")  # a fork would copy the rings and XDP programs
        self._connection, theirs = context.Pipe(duplex=False)
        arguments = (theirs, self._settings, self._writer.directory, gaps)
        self._child = FunctionProcess(_run_child, arguments, "reindex", context)
        theirs.close()

    def _receive(self, connection: Connection) -> None:
        deadline_s = time.monotonic() + TURN_S
        try:
            while connection.poll() and time.monotonic() < deadline_s:
                message = connection.recv()
                if isinstance(message, str):
                    log.warning("%s", message)
                elif message is None:
                    log.info("the index is complete")
                    self.remaining_bytes = 0
                    self.close()
                    return
                elif fill(self._writer.index, *message):
                    self._count(message)
                else:
                    self._retry_later()
                    return
        except (EOFError, OSError):
            self._retry_later()

    def _count(self, part: Part) -> None:
        done_bytes = part.rest - part.gap.start
        self.done_bytes += done_bytes
        self.remaining_bytes -= done_bytes

    def _retry_later(self) -> None:
        log.warning("the index cannot be completed now; trying again in %d s", PAUSE_S)
        self.close()
        self._next_s = time.monotonic() + PAUSE_S
        self._writer.index.is_behind = True


def _run_child(
    connection: Connection, settings: Settings, directory: Path, gaps: Sequence[tuple[Day, Gap]]
) -> None:
    """Match the records of all gaps and send the parts, then None.

    A string is a line for the parent's log. The process ends when the parent closes the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles ^C, and ends this process
    os.nice(19)
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: connection.send(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    with contextlib.suppress(BrokenPipeError):
        try:
            for part in Rematcher(settings).parts(directory, gaps):
                connection.send(part)
            connection.send(None)
        except SensorError as error:
            connection.send(f"the index is not complete: {error}")
