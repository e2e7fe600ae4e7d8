"""The sender as the supervisor sees it: started, fed, started again when it dies, and what it has done.

Runs in the supervisor, which must never wait for a receiver: lines are made and sent by a process of its
own, behind a channel that takes a message at once or not at all. It is executed, not forked: it shares
neither locks nor descriptors with the supervisor, and threads in it are no concern of the workers'.
"""

from __future__ import annotations

import logging
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from sensor.config.settings import Settings
from sensor.events.eve import Form, count
from sensor.events.receiver_state import Board, Column, ReceiverState
from sensor.events.url import STDOUT, receiver_of
from sensor.evidence.writer import Chunk

END_S = 5.0
"""How long the receivers may take at the end for what waits for them."""
ABORT_S = 1.0
"""How long they may take, beyond that, to give up."""
CHANNEL_BYTES = 16 << 20
"""Waits for the sender to get round to it; beyond that events are lost to all receivers."""
MESSAGE_BYTES = 1 << 20
"""No message is longer."""
REOPEN: Final = "reopen"
_PART_BYTES, _PART_ITEMS = 60_000, 256
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_KILLED_S = 3.0
_NOT_FOR_THE_SENDER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C and service managers send these to all; the last events are still to come."""

log = logging.getLogger(__name__)


class Order(NamedTuple):
    """The first message: what the sender is to do."""

    urls: tuple[str, ...]
    form: Form
    queue_bytes: int


class EventSender:
    """Starts the sender where there are receivers; without, does nothing.

    Raises:
        SettingsError: A receiver means nothing, or cannot be used.
    """

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        """``as_json`` makes standard output a receiver, too."""
        urls = tuple(dict.fromkeys([*settings.events, *([STDOUT] if as_json else [])]))
        for url in urls:
            receiver_of(url)
        api = settings.events_url.rstrip("/") if settings.events_url else None
        form = Form(socket.gethostname(), settings.devid, settings.events_payload, api)
        self._order = Order(urls, form, settings.events_queue_mib << 20)
        self._board = Board(len(urls))
        self._offered = [0, 0]  # alerts; objects of --json
        self._refused = [0, 0]  # by the channel, of these
        self._must_reopen = False
        self._process: subprocess.Popen[bytes] | None = None
        if urls:
            self._start()

    @property
    def pid(self) -> int | None:
        """Process id of the sender, where there is one."""
        return self._process.pid if self._process else None

    def _start(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            with suppress(PermissionError):  # without CAP_NET_ADMIN it stays small
                self._channel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, CHANNEL_BYTES)
            self._channel.send(pickle.dumps(self._order))
            passed = (theirs.fileno(), self._board.descriptor)
            rows = len(self._order.urls)
            command = [sys.executable, "-m", "sensor.events", *map(str, passed), str(rows)]
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_THE_SENDER)  # which it inherits
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=passed)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def offer(self, chunks: Iterable[Chunk]) -> None:
        """Send an event for each match of what was written; never waits, and counts what is lost."""
        if not self._order.urls:
            return
        for part in (part for chunk in chunks for part in _parts(chunk)):
            counts = count(part)
            self._offered = [sum(pair) for pair in zip(self._offered, counts, strict=True)]
            try:
                self._channel.send(pickle.dumps(part, pickle.HIGHEST_PROTOCOL), socket.MSG_DONTWAIT)
            except OSError:  # full, or the sender is dead: `tick` sees to that
                self._refused = [sum(pair) for pair in zip(self._refused, counts, strict=True)]

    def request_reopen(self) -> None:
        """Ask for files to be opened anew; safe in a signal handler."""
        self._must_reopen = True

    def tick(self) -> None:
        """Start the sender again where it has died; pass on what was asked for. To be called now and then."""
        if not self._process:
            return
        if self._process.poll() is not None:
            log.error("the sender of events died (exit code %d); starting another", self._process.returncode)
            self._settle()
            with suppress(OSError):  # no room for a process: the next call tries again
                self._start()
        if self._must_reopen:
            with suppress(OSError):
                self._channel.send(pickle.dumps(REOPEN), socket.MSG_DONTWAIT)
                self._must_reopen = False

    def states(self) -> list[ReceiverState]:
        """Take a snapshot of all receivers."""
        return [self._state(number, url) for number, url in enumerate(self._order.urls)]

    def _state(self, number: int, url: str) -> ReceiverState:
        row, kind = self._board.row(number), int(url == STDOUT)
        return ReceiverState(
            receiver=url,
            connected=bool(row[Column.CONNECTED]),
            offered=self._offered[kind],
            sent=row[Column.SENT],
            lost=row[Column.LOST] + self._refused[kind],
        )

    def _settle(self) -> None:
        """Count what a sender that has ended did not send as lost."""
        self._channel.close()
        for number, state in enumerate(self.states()):
            row = self._board.row(number)
            row[Column.CONNECTED] = 0
            row[Column.LOST] += state.waiting

    def close(self) -> None:
        """Let the sender send what waits, within `END_S`; log what became of the events."""
        if self._process:
            with suppress(OSError):
                self._channel.shutdown(socket.SHUT_WR)
            try:
                self._process.wait(END_S + ABORT_S + _KILLED_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._settle()
        for state in self.states():
            level = logging.WARNING if state.lost else logging.INFO
            log.log(level, "events: %s: %d sent, %d lost", state.receiver, state.sent, state.lost)
        self._board.close()


def _parts(chunk: Chunk) -> Iterator[Chunk]:
    """Cut a chunk into such that fit into a message."""
    path, _, items = chunk
    offsets = chunk.offsets()
    first = 0
    for end in range(1, len(items) + 1):
        is_full = offsets[end] - offsets[first] >= _PART_BYTES or end - first >= _PART_ITEMS
        if is_full or end == len(items):
            yield Chunk(path, offsets[first], items[first:end])
            first = end
