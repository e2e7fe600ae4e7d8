"""Rebuild the index while capture runs. Runs in the supervisor, with a child process that matches.

The child reads packets that may be hostile, so the supervisor believes little of what it sends. It reads the
records itself, and compares them with the rows: a row has the offset, time and length of a real record. A
child that sends anything else is killed, and the gap stays as it was.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from sensor.config.settings import Settings
from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.block_codec import MalformedBlockError, check_origin
from sensor.evidence.day_writer import Gap
from sensor.evidence.evidence_file import open_evidence
from sensor.evidence.index_schema import NO_INTERFACE, Day
from sensor.evidence.message import MalformedMessageError, ReceivedMessage
from sensor.evidence.pcap import RECORD_HEADER_BYTES, SNAPLEN, RecordReader
from sensor.evidence.reconcile import fill
from sensor.evidence.rule_codec import decode_rules
from sensor.evidence.writer import EvidenceWriter
from sensor.live.message_pipe import MessagePipe
from sensor.live.reindex_task import MESSAGE_BYTES, PIPE_BYTES, ReindexKind, Task
from sensor.model import Rule
from sensor.process.child import finish
from sensor.reindex import BATCH_BYTES, BATCH_ITEMS
from sensor.rules.engine.profile import PROFILES

TURN_S = 0.02
"""Time one call of `Reindexer.tick` may spend on received parts, so that capture does not wait longer."""
PAUSE_S = 60.0
"""Time between two searches for gaps: after a failure, or after a running capture left a new gap."""
SILENCE_S = 600.0
"""Time without a message, after which a child is killed. It has to load the rules, at the lowest priority."""
MOST_RULES = 1 << 17
"""Rules that a child may define."""
_MOST_BATCH_BYTES = BATCH_BYTES + SNAPLEN + BATCH_ITEMS * RECORD_HEADER_BYTES
_DIGEST = re.compile(rb"[0-9a-f]{64}")

log = logging.getLogger(__name__)


class Reindexer:
    """Fills the gaps of the index while capture runs.

    A child process reads and matches the records; `tick` writes the rows for what it sends.
    """

    def __init__(self, settings: Settings, writer: EvidenceWriter) -> None:
        self._settings = settings
        self._writer = writer
        self._child: _Child | None = None
        self._next_s = 0.0
        self.remaining_bytes = 0
        """Bytes of evidence files that are known to have no rows yet."""
        self.done_bytes = 0
        """Bytes of evidence files that were given rows since the start."""

    @property
    def is_busy(self) -> bool:
        """True while gaps are being filled."""
        return self._child is not None

    @property
    def pid(self) -> int | None:
        """Process id of the child; None if there is none."""
        return self._child.process.pid if self._child else None

    def tick(self) -> None:
        """Do a small part of the work. The supervisor calls this several times per second."""
        if self._child is not None:
            self._receive(self._child)
        elif self._writer.index.is_behind and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + PAUSE_S
            gaps = self._writer.reconcile()
            if gaps:
                self._start(gaps)

    def close(self) -> None:
        """Stop the child; the gaps it has not filled are left for the next start."""
        if self._child:
            self._child.close()
        self._child = None

    def _start(self, gaps: Sequence[tuple[Day, Gap]]) -> None:
        size = sum(gap.end - gap.start for _, gap in gaps)
        self.remaining_bytes = size
        log.info("rebuilding the index for %d bytes of evidence in %d gaps", size, len(gaps))
        try:
            self._child = _Child(Task(self._settings, self._writer.directory, gaps))
        except OSError as error:
            log.warning("the index cannot be rebuilt: no process can be started (%s)", error.strerror)
            self._retry_later()

    def _receive(self, child: _Child) -> None:
        deadline_s = time.monotonic() + TURN_S
        try:
            while time.monotonic() < deadline_s:
                message = child.pipe.read()
                if message is None:
                    self._check_silence(child)
                    return
                child.heard_s = time.monotonic()
                if message.header.kind == ReindexKind.DONE and not child.gaps:
                    log.info("the index is complete")
                    self.remaining_bytes = 0
                    self.close()
                    return
                if not self._handle(child, message):
                    self._retry_later()
                    return
        except MalformedMessageError as error:
            log.error("the reindexing process sent a malformed message and is killed: %s", error)  # noqa: TRY400
            self._retry_later()
        except (EOFError, OSError):
            self._retry_later()

    def _handle(self, child: _Child, message: ReceivedMessage) -> bool:
        """Handle a message; return False if the index cannot be written now.

        Raises:
            MalformedMessageError: the message is malformed, or it is not its turn.
            OSError: the evidence file cannot be read.
        """
        if child.learn(message):
            return True
        if not child.gaps or message.header.kind not in (ReindexKind.ROWS, ReindexKind.SKIP):
            raise MalformedMessageError(f"a message of kind {message.header.kind}")
        day, gap = child.gaps[0]
        block = block_of_objects([])
        offsets, rest = np.empty(0, np.int64), gap.end
        if message.header.kind == ReindexKind.ROWS:
            block, rest = self._block(child, message, gap)
            offsets = block.record_offsets(gap.start)[:-1] if len(block) else offsets
        if not fill(self._writer.index, day, gap, offsets, block, rest):
            return False
        self.done_bytes += rest - gap.start
        self.remaining_bytes -= rest - gap.start
        child.gaps[:1] = [(day, gap._replace(start=rest))] if rest < gap.end else []
        return True

    def _block(self, child: _Child, message: ReceivedMessage, gap: Gap) -> tuple[EvidenceBlock, int]:
        """Return the items of a message, compared with the file, and the end of the last record.

        There are none if the file has been deleted.
        """
        header = message.header
        if not 0 < header.items <= BATCH_ITEMS or header.records_bytes or header.text_bytes:
            raise MalformedMessageError(f"{header.items} items, {header.records_bytes} bytes of records")
        size = message.frame_records_bytes()
        if size > min(_MOST_BATCH_BYTES, gap.end - gap.start):
            raise MalformedMessageError(f"records of {size} bytes from byte {gap.start} of {gap}")
        try:
            with open_evidence(self._writer.directory / gap.name) as file:
                linktype = RecordReader(file).linktype or 0
                records = os.pread(file.fileno(), size, gap.start)
        except FileNotFoundError:
            return block_of_objects([]), gap.start + size
        block = message.block(child.rules, records)
        try:
            check_origin(block, [linktype], [NO_INTERFACE])
        except MalformedBlockError as error:
            raise MalformedMessageError(str(error)) from error
        http = PROFILES[self._settings.profile].http
        block = replace(block, http=http, digest=child.digest)
        return block.without_records(), gap.start + size

    def _check_silence(self, child: _Child) -> None:
        if time.monotonic() - child.heard_s > SILENCE_S:
            log.error("the reindexing process has sent nothing for %d s and is killed", SILENCE_S)
            self._retry_later()

    def _retry_later(self) -> None:
        log.warning("the index cannot be completed now; trying again in %d s", PAUSE_S)
        self.close()
        self._next_s = time.monotonic() + PAUSE_S
        self._writer.index.is_behind = True


class _Child:
    """The reindexing process, and what it has said so far."""

    def __init__(self, task: Task) -> None:
        """Start it.

        Raises:
            OSError: the kernel starts no more processes.
        """
        self.gaps = list(task.gaps)
        """The rest of the work; the child does the first gap."""
        self.digest = ""
        self.rules: list[Rule] = []
        self.heard_s = time.monotonic()
        """Time of its last message."""
        ours, theirs = os.pipe()
        try:
            with suppress(OSError):  # beyond the limit of an unprivileged user
                fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            self.process = _execute(task, theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self.pipe = MessagePipe(ours, MESSAGE_BYTES)

    def learn(self, message: ReceivedMessage) -> bool:
        """Keep what a message says about the rules; return False if it is about something else.

        Raises:
            MalformedMessageError: the message is malformed.
        """
        if message.header.kind == ReindexKind.DIGEST and not self.digest and _DIGEST.fullmatch(message.text):
            self.digest = message.text.decode("ascii")
            return True
        if message.header.kind == ReindexKind.RULES and self.digest:
            self.rules = [*self.rules, *decode_rules(message.text)]
            if len(self.rules) > MOST_RULES:
                raise MalformedMessageError(f"{len(self.rules)} rules")
            return True
        return False

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        finish(self.process)


def _execute(task: Task, pipe: int) -> subprocess.Popen[bytes]:
    """Start the process; its standard input is a file with the task."""
    with os.fdopen(os.memfd_create("sensor-task"), "w+b") as file:
        file.write(task.as_json())
        file.seek(0)
        command = [sys.executable, "-m", "sensor.live.reindex_process", str(pipe), str(os.getpid())]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # inherited
        try:
            return subprocess.Popen(command, stdin=file, pass_fds=[pipe])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
