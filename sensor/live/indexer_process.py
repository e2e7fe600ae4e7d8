"""The indexer as the supervisor sees it: start, feed and replace it. Runs in the supervisor.

A row that the indexer does not get is not lost: its record is in a file, and is found there when the indexer
compares files and index.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from sensor.config.settings import Settings
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.conversation import ConversationNote
from sensor.evidence.index_writer import IndexFigures
from sensor.evidence.message import MalformedMessageError
from sensor.live.indexer_channel import (
    REPORT_BYTES,
    IndexerConfig,
    IndexerKind,
    IndexerReport,
    parts_of_rows,
)
from sensor.live.reindex_launcher import ReindexLauncher
from sensor.live.row_sender import RowSender
from sensor.process.child import Backoff, ChildProcess, blocked
from sensor.text import count_of

COMMAND = [sys.executable, "-m", "sensor.live.indexer"]
BACKOFF_S, BACKOFF_MAX_S, STABLE_S = 1.0, 60.0, 60.0
MOST_SILENT_TICKS = 100
"""Ticks in a row without a report, until the process is killed: some twenty seconds.

Ticks are counted, not seconds: if the supervisor itself was delayed, the indexer is not to blame.
"""
QUIET_S = 10.0
"""Time without missing rows, after some were missing, until the log reports that the index keeps up again."""
END_S, END_STALLED_S = 30.0, 10.0
"""Time the process has to insert the last rows when the sensor stops: in total, and without progress."""
NOTES_AGAIN_S = 60.0
"""Age up to which notes of conversations are sent again to the next process."""
_MOST_NAMES = 1000
"""Names of deleted files in one message."""
_MOST_NOTES = 16_384
"""Notes of conversations that wait until the channel has room; beyond it, the oldest are dropped."""
_MOST_REPORTS = 100
"""Reports read at once."""
_NOT_FOR_THE_INDEXER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C and service managers signal every process, but the indexer still has the last rows to insert."""

log = logging.getLogger(__name__)


class IndexerProcess(ChildProcess):
    """A child process that writes the index of one device; a `RowTarget` for the evidence writer."""

    def __init__(self, settings: Settings, directory: Path, interfaces: Mapping[int, str]) -> None:
        """Start it; ``directory`` is that of the device, and locked. ``interfaces`` are names by index."""
        self.missing = 0
        """Rows that could not be handed over, and are found in the files later."""
        self.reindexers = ReindexLauncher(settings, directory)
        self._deleted: dict[str, int | None] = {}
        """Deleted files that the process may not know of, with the number of the message about them."""
        self._notes: dict[int, ConversationNote] = {}
        self._sent_notes: deque[tuple[float, ConversationNote]] = deque(maxlen=_MOST_NOTES)
        self._config = IndexerConfig(
            directory, dict(interfaces), settings.profile, settings.context, settings.context_seconds
        )
        self._ended = IndexerReport()  # sums of the processes that have ended
        self._is_killed = False
        self._missed_s: float | None = None
        delay = Backoff(BACKOFF_S, BACKOFF_MAX_S, STABLE_S)
        super().__init__("the indexer", self._execute, delay, self._settle)

    def _execute(self) -> subprocess.Popen[bytes]:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sender = RowSender(self._channel)
        self._report = IndexerReport()
        self._deleted = dict.fromkeys(self._deleted)
        self._queue_notes_again()
        self._has_missed = self._is_killed = False
        self._silent_ticks = 0
        with theirs:
            self._sender.send(IndexerKind.CONFIG, self._config.as_json())
            with blocked(_NOT_FOR_THE_INDEXER):  # inherited
                return subprocess.Popen(
                    [*COMMAND, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )

    def add(self, name: str, offset: int, block: EvidenceBlock) -> None:
        """Send rows for consecutive records that were written to a file, all of the same UTC day.

        ``name`` is the final name of the file, and ``offset`` that of the first record.
        """
        for start, part in parts_of_rows(offset, block):
            try:
                self._send_deleted()
                self._sender.send_rows(name, start, part)
            except OSError:  # the channel is full, or the process is dead: see `tick`
                self._miss(len(part))

    def note(self, note: ConversationNote) -> None:
        """Send what is known of a conversation; if the channel is full, `tick` tries again."""
        self._notes.pop(note.conversation, None)
        self._notes[note.conversation] = note
        if len(self._notes) > _MOST_NOTES:
            del self._notes[next(iter(self._notes))]
        with suppress(OSError):
            self._send_notes()

    def finish(self, name: str, end: int) -> None:
        """Let the rows of a file be compared with its end, just before it is given its final name."""
        try:
            self._sender.send(IndexerKind.FINISHED, name.encode(), end)
        except OSError:
            self._miss(0)

    def forget(self, names: Collection[str]) -> None:
        """Hide the rows of deleted files from searches, before any are added for new files of their names."""
        self._deleted |= dict.fromkeys(names)
        with suppress(OSError):  # `tick` and `add` try again
            self._send_deleted()

    def compare(self) -> None:
        """Let files and index be compared, because files may have been deleted without `forget`."""
        self._has_missed = True

    def tick(self) -> None:
        """Read reports; replace a process that has died or stalled. Call this several times per second."""
        self._read_reports()
        self._silent_ticks += 1
        if self._silent_ticks > MOST_SILENT_TICKS and not self._is_killed:
            log.error("the indexer has stalled and is killed")
            self._kill()
        super().tick()
        self.reindexers.tick(self._report.reindexer, self._sender.send_socket)
        with suppress(OSError):
            self._send_notes()
            self._send_deleted()
            if self._has_missed:
                self._sender.send(IndexerKind.MISSED)
                self._has_missed = False
        if self._missed_s and time.monotonic() - self._missed_s >= QUIET_S:
            log.warning("the index keeps up again; the missing rows are added from the files")
            self._missed_s = None

    @property
    def report(self) -> IndexerReport:
        """The figures of all processes so far; ``waiting`` includes the rows on their way."""
        ended, now = self._ended, self._report
        return now._replace(
            received=ended.received + now.received,
            rows=ended.rows + now.rows,
            waiting=self._waiting,
            failures=ended.failures + now.failures,
            changed_s=now.changed_s or ended.changed_s,
            is_behind=now.is_behind or self._has_missed,
            done_bytes=ended.done_bytes + now.done_bytes,
        )

    def figures(self) -> IndexFigures:
        """Return the state of the index."""
        report = self.report
        return IndexFigures(report.rows, report.waiting, report.failures, report.changed_s, report.is_behind)

    def close(self, patience_s: float = END_S) -> None:
        """Let the process insert what it was sent; kill it after ``patience_s``, or without progress."""
        self.reindexers.close()
        with suppress(OSError):
            self._send_notes()
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
        is_ending = self._await_end(time.monotonic() + patience_s)
        if self._waiting:
            log.warning("%s not in the index yet; the next start adds them", count_of(self._waiting, "row"))
        super().close(END_STALLED_S if is_ending else 0.0)

    def _await_end(self, deadline_s: float) -> bool:
        """Read reports until the process closes the channel; return False if it does not, or stalls."""
        progress_s, before, poll = time.monotonic(), self._report, select.poll()
        while self._read_reports():
            if self._report != before:
                progress_s, before = time.monotonic(), self._report
            left_s = min(deadline_s, progress_s + END_STALLED_S) - time.monotonic()
            if left_s <= 0 or self._is_killed:
                return False
            poll.register(self._channel, select.POLLIN)
            poll.poll(1000 * left_s)
        return True

    @property
    def _waiting(self) -> int:
        """Rows that were sent and are not inserted yet."""
        return max(0, self._sender.rows - self._report.received) + self._report.waiting

    def _send_deleted(self) -> None:
        """Send the names of deleted files that were not sent yet.

        Raises:
            OSError: the channel is full, or the process is dead.
        """
        names = [name for name, number in self._deleted.items() if number is None]
        for first in range(0, len(names), _MOST_NAMES):
            part = names[first : first + _MOST_NAMES]
            self._sender.send(IndexerKind.DELETED, "\n".join(part).encode())
            self._deleted |= dict.fromkeys(part, self._sender.messages)

    def _send_notes(self) -> None:
        """Send what is known of conversations and was not sent yet.

        Raises:
            OSError: the channel is full, or the process is dead.
        """
        while self._notes:
            number, note = next(iter(self._notes.items()))
            self._sender.send_note(note)
            del self._notes[number]
            self._sent_notes.append((time.monotonic(), note))

    def _queue_notes_again(self) -> None:
        """Send the notes of the last seconds again: the process before may have died with them."""
        since_s = time.monotonic() - NOTES_AGAIN_S
        again = {note.conversation: note for sent_s, note in self._sent_notes if sent_s >= since_s}
        self._notes = again | self._notes
        self._sent_notes.clear()

    def _miss(self, rows: int) -> None:
        self.missing += rows
        self._has_missed = True
        if self._missed_s is None:
            log.warning("the index does not keep up: rows are left out, and added from the files later")
        self._missed_s = time.monotonic()

    def _read_reports(self) -> bool:
        """Read what the process has reported; return False if no more can come.

        The process is killed if a report is malformed.
        """
        try:
            for _ in range(_MOST_REPORTS if not self._is_killed else 0):
                data = self._channel.recv(REPORT_BYTES + 1, socket.MSG_DONTWAIT)
                if not data:
                    return False
                self._note(IndexerReport.of(data))
        except BlockingIOError:
            return True
        except OSError:  # the process has died
            return False
        except MalformedMessageError as error:
            log.error("the indexer sent a malformed report and is killed: %s", error)  # noqa: TRY400
            self._kill()
        return True

    def _note(self, report: IndexerReport) -> None:
        """Note a report.

        Raises:
            MalformedMessageError: it says that more was received than was sent.
        """
        if report.messages > self._sender.messages or report.received > self._sender.rows:
            raise MalformedMessageError(f"{report.messages} messages and {report.received} rows received")
        self._report = report
        self._silent_ticks = 0
        if self._deleted:
            self._deleted = {
                name: number
                for name, number in self._deleted.items()
                if number is None or number > report.messages
            }

    def _kill(self) -> None:
        """Kill the process; `tick` sees its end. Its reports do not count any more."""
        self._is_killed = True
        self._process.kill()

    def _settle(self) -> None:
        """Take over the figures of a process that has ended."""
        self._read_reports()
        self.missing += self._waiting
        self._ended = self.report
        self._report = IndexerReport()
        self._sender.rows = 0
        self._channel.close()
        self.reindexers.stop()
