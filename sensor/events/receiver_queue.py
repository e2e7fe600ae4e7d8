"""One receiver of events: what waits for it, bounded, and the thread that hands it over. Runs in the sender.

A receiver that is slow, dead or was never there costs memory up to the bound, and then its own events.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from sensor.events.eve import Event
from sensor.events.receiver import Receiver
from sensor.events.receiver_state import Column

WATCH_S = 1.0
"""How long the end of an idle connection may go unnoticed."""
BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
_EVENT_BYTES = 200
"""About what Python needs for an event beside its line."""

log = logging.getLogger(__name__)


class ReceiverQueue(threading.Thread):
    """Hands over events in their order, each once; waits and connects again where it has to."""

    def __init__(self, url: str, receiver: Receiver, row: memoryview[int], most_bytes: int) -> None:
        super().__init__(name=url, daemon=True)
        self._url = url
        self._receiver = receiver
        self._row = row
        self._room = most_bytes
        self._queue: deque[Event] = deque()
        self._changed = threading.Condition()
        self._is_open = self._must_reopen = False
        self._ends = self._is_aborted = False
        self._backoff_s = BACKOFF_S
        self._failing: str | None = None
        """What the log was told last of why nothing is sent."""
        self._is_losing = False

    def offer(self, events: Iterable[Event]) -> None:
        """Let events wait, as far as there is room; never waits itself."""
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
        """Open it anew before the next event, where its name may mean something else by now."""
        with self._changed:
            self._must_reopen = self._receiver.reopens
            self._changed.notify()

    def end(self) -> None:
        """Let the thread end when nothing waits any more, or when what waits cannot be sent."""
        with self._changed:
            self._ends = True
            self._changed.notify()

    def abort(self) -> None:
        """Let the thread end at once, whatever waits."""
        self._is_aborted = True
        self._receiver.abort()

    def run(self) -> None:
        """Send until told to end."""
        while not (self._ends and (self._is_given_up or not self._queue)):
            if self._must_reopen:
                self._must_reopen = False
                self._close()
            if not self._is_open and not self._try(self._open):
                continue
            event = self._wait()
            if event is None:
                if self._try(self._receiver.watch):
                    self._settle()
            elif self._try(self._receiver.send, event):
                self._done(event)
        self._close()

    @property
    def _is_given_up(self) -> bool:
        """Whether there is nobody to send to, at the end: it was tried, and failed; or no time."""
        return self._is_aborted or (self._failing is not None and not self._is_open)

    def _wait(self) -> Event | None:
        """Return the first event that waits; None after a while without one, or where there is other work."""
        with self._changed:
            if not self._queue and not self._ends and not self._must_reopen:
                self._changed.wait(WATCH_S)
            return self._queue[0] if self._queue and not self._must_reopen else None

    def _try(self, act: Callable[..., None], *arguments: Event) -> bool:
        """Do it; where it fails, say so once, and give the receiver some time."""
        try:
            act(*arguments)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:  # no second try makes it smaller
                self._drop()
                return False
            self._close()
            if self._is_aborted:
                return False
            self._tell(str(error.strerror or error))
            with self._changed:
                self._changed.wait_for(lambda: self._ends, self._backoff_s)
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
        self._settle()

    def _settle(self) -> None:
        """Say that all is well again, where the log was told that it was not, and nothing waits any more."""
        if (self._failing or self._is_losing) and not self._queue:
            log.info("events: %s: goes on; %d lost so far", self._url, self._row[Column.LOST])
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
            log.error(
                "events: %s: slow or not there, and no room for more to wait: events are lost", self._url
            )

    def _tell(self, why: str) -> None:
        if self._failing != why:
            log.warning("events: %s: %s; events wait, and it is tried again", self._url, why)
        self._failing = why
