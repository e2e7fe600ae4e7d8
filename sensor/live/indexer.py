"""The indexer: a process beside `sensor run` that writes the index, off the loop that writes the evidence.

The supervisor executes it (`sensor.live.indexer_process`) and sends it the rows in columns, through a socket
that it never waits for. What does not fit is left out, and is found in the files later, like all rows that a
killed indexer did not insert. When the socket ends, the indexer inserts what it has received, and ends.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sensor.evidence.conversation_codec import unpack_note
from sensor.evidence.conversation_links import link_rules
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.message import MalformedMessageError, ReceivedMessage
from sensor.evidence.rule_numbers import RuleTable
from sensor.live.indexer_channel import (
    CHANNEL_BYTES,
    MESSAGE_BYTES,
    IndexerConfig,
    IndexerKind,
    IndexerReport,
    RuleSource,
)
from sensor.live.reindexer import Reindexer
from sensor.log import log_to_stderr
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole
from sensor.process.landlock import Access
from sensor.process.prctl import end_with_parent, set_process_name
from sensor.rules.engine.profile import PROFILES

TURN_S = 0.02
"""Time for received messages, until other work has its turn."""
COMMIT_S = 0.1
"""Shortest time between two commits while few rows arrive; `IndexWriter` commits many in larger steps."""
CHORES_S = 0.2
"""Period of commits that are tried again, and of deleting rows of deleted files."""
WATCH_S = 1.0
"""Period of looking for databases that were removed."""
REPORT_S, LIFE_S = 0.1, 1.0
"""Shortest and longest time between two reports. The longest is a sign of life."""

_READABLE = tuple(
    map(Path, ("/dev/urandom", "/etc/localtime", "/usr/share/zoneinfo", "/proc/sys/kernel/random"))
)
"""Files that SQLite, the log and the index read."""
_DESCRIPTOR_BYTES = socket.CMSG_LEN(array("i").itemsize)

log = logging.getLogger(__name__)


class Inbox:
    """The receiving end of the channel."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.is_empty = True
        """True if the last call of `receive` found no message."""
        self._times_empty = 0
        self._bytes = 0

    @property
    def descriptor(self) -> int:
        """Descriptor of the socket."""
        return self._channel.fileno()

    def receive(self) -> tuple[ReceivedMessage, socket.socket | None] | None:
        """Return the next message and the socket that came with it; None if there is no message now.

        Raises:
            EOFError: the channel has ended.
            MalformedMessageError: the message is malformed.
        """
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            data, ancillary, _, _ = self._channel.recvmsg(MESSAGE_BYTES + 1, _DESCRIPTOR_BYTES, flags)
        except BlockingIOError:
            self.is_empty = True
            self._times_empty += 1
            return None
        sockets = [socket.socket(fileno=one) for _, _, sent in ancillary for one in array("i", sent)]
        if not data:
            raise EOFError
        self.is_empty = False
        self._bytes += len(data)
        return ReceivedMessage.of(data, MESSAGE_BYTES), sockets[0] if sockets else None

    def watch_arrival(self) -> Callable[[], bool]:
        """Return a function that returns True once all messages were received that are on their way now."""
        times_empty, sent = self._times_empty, self._bytes + 2 * CHANNEL_BYTES  # the kernel doubles the size
        return lambda: self._times_empty > times_empty or self._bytes >= sent


class Indexer:
    """Inserts the rows that arrive, and completes the index."""

    def __init__(self, inbox: Inbox, report: Callable[[bytes], object], config: IndexerConfig) -> None:
        """Prepare; ``report`` sends a report, or drops it if that would block."""
        self.index = IndexWriter(config.directory, lambda number: config.interfaces.get(number, str(number)))
        http = PROFILES[config.profile].http
        rules = link_rules(config.context, config.context_seconds)
        self.reindexer = Reindexer(self.index, http, inbox.watch_arrival, rules)
        self._inbox, self._report = inbox, report
        self._rules = RuleTable()
        self._source = RuleSource("", http)
        self._messages, self._received = 1, 0  # the configuration was the first message
        self._commit_s = self._chores_s = self._reported_s = self._watch_s = 0.0
        self._reported = b""

    def run(self) -> None:
        """Work until the channel ends, then insert what was received.

        Raises:
            MalformedMessageError: the supervisor sent a malformed message.
        """
        try:
            while True:
                self._wait()
                self._receive()
                self._commit()
                self.reindexer.tick()
                self._do_chores()
                self._send_report()
        except EOFError:
            self.reindexer.close()
        finally:
            self.index.close()
            self._reported_s = 0.0
            self._send_report()

    def _wait(self) -> None:
        """Wait for messages, or until something else is due.

        Once rows wait for the next commit, others may join them in the channel: each wake-up has a cost.
        """
        if not self._inbox.is_empty or self.reindexer.is_comparing:
            return
        wait_s = self._commit_s - time.monotonic() if self.index.has_waiting else CHORES_S
        if wait_s > 0:
            poll = select.poll()
            awaited = select.POLLRDHUP if self.index.has_waiting else select.POLLIN  # the end, or any message
            poll.register(self._inbox.descriptor, awaited)
            if channel := self.reindexer.channel:
                poll.register(*channel)
            poll.poll(1000 * wait_s)

    def _receive(self) -> None:
        """Handle messages for a while.

        Raises:
            EOFError: the channel has ended.
            MalformedMessageError: a message is malformed.
        """
        deadline_s = time.monotonic() + TURN_S
        while time.monotonic() < deadline_s:
            received = self._inbox.receive()
            if received is None:
                return
            self._handle(*received)
            self._messages += 1

    def _handle(self, message: ReceivedMessage, attached: socket.socket | None) -> None:
        kind, number = message.header.kind, message.header.number
        if kind == IndexerKind.ROWS:
            self._add(message)
        elif kind == IndexerKind.FINISHED:
            self.index.finish(message.text.decode(), number)
        elif kind == IndexerKind.RULES:
            self._rules.define(message)
        elif kind == IndexerKind.SOURCE:
            self._source = RuleSource.of(message.text)
        elif kind == IndexerKind.DELETED:
            self.index.forget(message.text.decode().splitlines())
        elif kind == IndexerKind.MISSED:
            self.index.is_behind = True
        elif kind == IndexerKind.CONVERSATION:
            self.index.note(unpack_note(message.text))
        elif kind == IndexerKind.REINDEXER:
            self.reindexer.adopt(number, attached)
        else:
            raise MalformedMessageError(f"a message of kind {kind}")

    def _add(self, message: ReceivedMessage) -> None:
        block = message.rows(self._rules.rules)
        block = replace(block, digest=self._source.digest, http=self._source.http)
        self.index.add(message.text.decode(), message.header.number, block)
        self._received += len(block)

    def _commit(self) -> None:
        """Commit as soon as no more rows wait to be received, but not too often."""
        if self._inbox.is_empty and time.monotonic() >= self._commit_s and self.index.has_waiting:
            self.index.commit()
            self._commit_s = time.monotonic() + COMMIT_S

    def _do_chores(self) -> None:
        if time.monotonic() >= self._chores_s:
            self._chores_s = time.monotonic() + CHORES_S
            self.index.tidy()
        if time.monotonic() >= self._watch_s:
            self._watch_s = time.monotonic() + WATCH_S
            self.index.watch()

    def _send_report(self) -> None:
        """Send the figures if they have changed, or as a sign of life."""
        figures = self.index.figures()
        report = IndexerReport(
            self._messages,
            self._received,
            *figures,
            self.reindexer.is_busy,
            self.reindexer.wanted,
            self.reindexer.remaining_bytes,
            self.reindexer.done_bytes,
        ).pack()
        silent_s = time.monotonic() - self._reported_s
        if silent_s >= (LIFE_S if report == self._reported else REPORT_S):
            self._report(report)
            self._reported, self._reported_s = report, time.monotonic()


def main(channel: socket.socket, supervisor: int) -> int:
    """Read the configuration, then rows, until the channel ends; return the exit code."""
    end_with_parent(supervisor)
    set_process_name("sensor-index")
    os.umask(0o027)
    try:
        config = _configuration(channel.recv(MESSAGE_BYTES + 1))
        _enter_sandbox(channel, config.directory, supervisor)
        Indexer(Inbox(channel), lambda report: _send(channel, report), config).run()
    except MalformedMessageError as error:
        log.error("the indexer received a malformed message and ends: %s", error)  # noqa: TRY400
        return 1
    return 0


def _configuration(data: bytes) -> IndexerConfig:
    """Return the configuration in the first message.

    Raises:
        MalformedMessageError: this is something else.
    """
    message = ReceivedMessage.of(data, MESSAGE_BYTES)
    if message.header.kind != IndexerKind.CONFIG:
        raise MalformedMessageError(f"a message of kind {message.header.kind} before the configuration")
    return IndexerConfig.of(message.text)


def _enter_sandbox(channel: socket.socket, directory: Path, supervisor: int) -> None:
    """Give up all rights but to change files in the directory, before packets are read."""
    sandbox.enter_as_owner(
        ProcessRole.INDEXER,
        directory,
        descriptors=[channel.fileno()],
        access=Access(readable=(*_READABLE, *sandbox.LIBRARIES), changeable=(directory,)),
        supervisor=supervisor,
    )


def _send(channel: socket.socket, report: bytes) -> None:
    """Send a report, unless the supervisor has not read the last ones."""
    with suppress(OSError):
        channel.send(report, socket.MSG_DONTWAIT)


if __name__ == "__main__":
    log_to_stderr()
    channel_fd, supervisor_pid = map(int, sys.argv[1:])
    code = main(socket.socket(fileno=channel_fd), supervisor_pid)
    sys.stderr.flush()
    os._exit(code)  # all is closed, and the supervisor waits: the interpreter need not clean up
