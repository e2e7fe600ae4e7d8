"""The supervisor's side of the event sender: start, feed and restart it, and count its events.

Runs in the supervisor, which must never wait for a receiver. Another process makes and sends the lines,
behind a channel that accepts a message at once or not at all. That process is executed, not forked: it
shares no locks or descriptors with the supervisor, and its threads cannot disturb the workers.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress

from sensor.config.settings import Settings
from sensor.events.channel import MESSAGE_BYTES, EventKind, SenderConfig, parts_of
from sensor.events.eve import EventOptions, count
from sensor.events.receiver_state import Column, ReceiverBoard, ReceiverState
from sensor.events.url import STDOUT, receiver_of
from sensor.evidence.block import EvidenceBlock
from sensor.evidence.message import pack
from sensor.evidence.rule_numbers import RuleNumbers
from sensor.evidence.writer import Chunk
from sensor.process.child import ChildProcess, blocked

END_S = 5.0
"""Seconds that receivers have to accept the waiting events when the sensor stops."""
ABORT_S = 1.0
"""Time for aborted receivers to stop, after `END_S`."""
CHANNEL_BYTES = 16 << 20
"""Size of the channel; while it is full, events are lost for all receivers."""
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_KILLED_S = 3.0
_NOT_FOR_THE_SENDER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C and service managers signal every process, but the sender still has the last events to send."""

log = logging.getLogger(__name__)


class EventSender:
    """The event sender, as the supervisor sees it; does nothing if there are no receivers.

    Raises:
        SettingsError: the URL of a receiver is invalid, or the receiver cannot be used.
    """

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        """Check the receivers and start the process; ``as_json`` adds standard output as a receiver."""
        urls = tuple(dict.fromkeys([*settings.events, *([STDOUT] if as_json else [])]))
        for url in urls:
            receiver_of(url)
        api = settings.events_url.rstrip("/") if settings.events_url else None
        options = EventOptions(socket.gethostname(), settings.devid, settings.events_payload, api)
        self._config = SenderConfig(urls, options, settings.events_queue_mib << 20, settings.profile)
        self._board = ReceiverBoard(len(urls))
        self._offered = [0, 0]  # alerts; objects of --json
        self._refused = [0, 0]  # by the channel, of these
        self._must_reopen = False
        self._process: ChildProcess | None = None
        if urls:
            self._process = ChildProcess("the event sender", self._execute, clean_up=self._settle)

    @property
    def pid(self) -> int | None:
        """Process id of the sender; None if there is none."""
        return self._process.pid if self._process else None

    def _execute(self) -> subprocess.Popen[bytes]:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            with suppress(PermissionError):  # without CAP_NET_ADMIN the buffer stays small
                self._channel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, CHANNEL_BYTES)
            self._numbers = RuleNumbers()
            self._send(EventKind.CONFIG, self._config.as_json())
            passed = (theirs.fileno(), self._board.descriptor)
            rows = len(self._config.urls)
            command = [sys.executable, "-m", "sensor.events", *map(str, passed), str(rows)]
            with blocked(_NOT_FOR_THE_SENDER):  # inherited
                return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=passed)

    def offer(self, chunks: Iterable[Chunk]) -> None:
        """Pass written evidence to the sender; never block, and count what is lost."""
        if not self._config.urls:
            return
        wanted = (chunk for chunk in chunks if not chunk.block.is_context.all())
        for part in (part for chunk in wanted for part in parts_of(chunk)):
            counts = count(part.block)
            self._offered = [sum(pair) for pair in zip(self._offered, counts, strict=True)]
            try:
                self._send_part(part)
            except OSError:  # the channel is full, or the sender is dead: see `tick`
                self._refused = [sum(pair) for pair in zip(self._refused, counts, strict=True)]

    def _send_part(self, part: Chunk) -> None:
        """Send a chunk that fits into a message, and first the rules in it that the sender does not know."""
        for first, rules in self._numbers.definitions(part.block):
            self._send(EventKind.RULES, rules, number=first)
        path = os.fsencode(part.path) if part.path else b""
        self._send(EventKind.BLOCK, path, self._numbers.numbered(part.block), part.offset)

    def _send(
        self, kind: EventKind, text: bytes = b"", block: EvidenceBlock | None = None, number: int = 0
    ) -> None:
        """Send a message at once.

        Raises:
            OSError: the channel is full, the message is too large, or the sender is dead.
        """
        message = pack(kind, text, block, number)
        if sum(map(len, message)) > MESSAGE_BYTES:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        self._channel.sendmsg(message, (), socket.MSG_DONTWAIT)

    def request_reopen(self) -> None:
        """Ask for files to be reopened; safe in a signal handler."""
        self._must_reopen = True

    def tick(self) -> None:
        """Restart the sender if it has died, and pass on a request to reopen; call this regularly."""
        if not self._process:
            return
        self._process.tick()
        if self._must_reopen:
            with suppress(OSError):
                self._send(EventKind.REOPEN)
                self._must_reopen = False

    def states(self) -> list[ReceiverState]:
        """Return the counters of all receivers."""
        return [self._state(number, url) for number, url in enumerate(self._config.urls)]

    def _state(self, number: int, url: str) -> ReceiverState:
        row, kind = self._board.row(number), int(url == STDOUT)
        return ReceiverState(
            receiver=url,
            connected=bool(row[Column.CONNECTED]),
            offered=self._offered[kind],
            sent=row[Column.SENT],
            lost=row[Column.LOST] + self._refused[kind],
            replaced=row[Column.REPLACED],
        )

    def _settle(self) -> None:
        """Count as lost what an ended sender did not send."""
        self._channel.close()
        for number, state in enumerate(self.states()):
            row = self._board.row(number)
            row[Column.CONNECTED] = 0
            row[Column.LOST] += state.waiting

    def close(self) -> None:
        """Let the sender send what waits, within `END_S`, then log how many events were sent and lost."""
        if self._process:
            with suppress(OSError):
                self._channel.shutdown(socket.SHUT_WR)
            self._process.close(END_S + ABORT_S + _KILLED_S)
        for state in self.states():
            level = logging.WARNING if state.lost else logging.INFO
            log.log(level, "events: %s: %d sent, %d lost", state.receiver, state.sent, state.lost)
        self._board.close()
