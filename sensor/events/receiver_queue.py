"""The queue of one receiver, and the thread that sends its events. Runs in the event sender.

The queue is bounded: a slow or unreachable receiver costs memory up to the bound, and then its own events.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from sensor.events.eve import Event
from sensor.events.receiver import Receiver, ReplacedError
from sensor.events.receiver_state import Column

WATCH_S = 1.0
"""Seconds between two checks of an idle connection."""
BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
_EVENT_BYTES = 200
"""Memory of an event besides its line, roughly."""

log = logging.getLogger(__name__)


class ReceiverQueue(threading.Thread):
    """Sends events in order, each one once; reconnects after failures."""

    def __init__(self, url: str, receiver: Receiver, row: memoryview[int], most_bytes: int) -> None:
        """``row`` is the receiver's row of the `ReceiverBoard`; the queue holds up to ``most_bytes``."""
        super().__init__(name=url, daemon=True)
        self._url = url
        self._receiver = receiver
        self._row = row
        self._room = most_bytes
        self._queue: deque[Event] = deque()
        self._changed = threading.Condition()
        self._is_open = self._must_reopen = False
        self._is_ending = self._is_aborted = False
        self._backoff_s = BACKOFF_S
        self._failing: str | None = None
        """The last reason logged for not sending; None while all is well."""
        self._is_losing = False

    def offer(self, events: Iterable[Event]) -> None:
        """Queue events as long as there is room, and count the rest as lost; never block."""
        with self._changed:
            for event in events:
                size = len(event.line) + _EVENT_BYTES
                if size > self._room:
                    self._lose()
                else:
                    self._room -= size
                    self._queue.append(event)
            self._changed.notify()

    def reopen(self) -> None:
        """Close and open the receiver before the next event, if `Receiver.reopens`."""
        with self._changed:
            self._must_reopen = self._receiver.reopens
            self._changed.notify()

    def end(self) -> None:
        """Let the thread end once the queue is empty or cannot be sent."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()

    def abort(self) -> None:
        """Let the thread end at once, even if events are waiting."""
        self._is_aborted = True
        self._receiver.abort()

    def run(self) -> None:
        """Send events until `end` or `abort` is called."""
        while not (self._is_ending and (self._is_undeliverable or not self._queue)):
            if self._must_reopen:
                self._must_reopen = False
                self._close()
            if not self._is_open and not self._try(self._open):
                continue
            event = self._wait()
            if event is None:
                if self._try(self._receiver.watch):
                    self._log_recovery()
            elif self._try(self._receiver.send, event):
                self._done(event)
        self._close()

    @property
    def _is_undeliverable(self) -> bool:
        """True if waiting events cannot be sent any more: the receiver is away, or time is up."""
        return self._is_aborted or (self._failing is not None and not self._is_open)

    def _wait(self) -> Event | None:
        """Return the first waiting event; None if there was none for `WATCH_S`, or if there is other work."""
        with self._changed:
            if not self._queue and not self._is_ending and not self._must_reopen:
                self._changed.wait(WATCH_S)
            return self._queue[0] if self._queue and not self._must_reopen else None

    def _try(self, action: Callable[..., None], *arguments: Event) -> bool:
        """Call ``action``. If it fails, log that once, wait (exponential backoff), and return False."""
        try:
            action(*arguments)
        except ReplacedError as error:
            self._close()
            self._row[Column.REPLACED] += 1
            log.warning("events: %s: %s without a signal; opening it again", self._url, error.strerror)
            return False
        except OSError as error:
            if error.errno == errno.EMSGSIZE:  # too large for a datagram: a retry would fail too
                self._drop()
                return False
            self._close()
            if self._is_aborted:
                return False
            self._log_failure(str(error.strerror or error))
            with self._changed:
                self._changed.wait_for(lambda: self._is_ending, self._backoff_s)
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)
            return False
        return True

    def _open(self) -> None:
        self._receiver.open()
        self._is_open = True
        self._row[Column.CONNECTED] = 1

    def _close(self) -> None:
        self._receiver.close()
        self._is_open = False
        self._row[Column.CONNECTED] = 0

    def _done(self, event: Event) -> None:
        self._row[Column.SENT] += 1
        self._backoff_s = BACKOFF_S
        with self._changed:
            self._queue.popleft()
            self._room += len(event.line) + _EVENT_BYTES
        self._log_recovery()

    def _log_recovery(self) -> None:
        """Log that the receiver works again: its queue is empty, and a failure or loss was logged before."""
        if (self._failing or self._is_losing) and not self._queue:
            log.info("events: %s: working again; %d lost so far", self._url, self._row[Column.LOST])
            self._failing, self._is_losing = None, False

    def _drop(self) -> None:
        with self._changed:
            event = self._queue.popleft()
            self._room += len(event.line) + _EVENT_BYTES
            self._lose()

    def _lose(self) -> None:
        self._row[Column.LOST] += 1
        if not self._is_losing:
            self._is_losing = True
            log.error("events: %s: too slow or unreachable, and its queue is full: losing events", self._url)

    def _log_failure(self, why: str) -> None:
        if self._failing != why:
            log.warning("events: %s: %s; events wait in the queue, retrying", self._url, why)
        self._failing = why
