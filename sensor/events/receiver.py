"""What every destination of events can do, and the one that needs no name: standard output.

Used by the sender, in a thread for each destination: `Receiver.send` may wait for as long as it takes.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import ClassVar

from sensor.events.eve import Event


class Receiver(ABC):
    """Open or closed; a failure leaves it to be closed, and it can be opened again."""

    reopens: ClassVar[bool] = False
    """Whether SIGHUP opens it anew, since its name may mean something else by then."""

    def check(self) -> None:  # noqa: B027 - most have nothing to check
        """Find what can be refused before the start. Raises OSError."""

    @abstractmethod
    def open(self) -> None:
        """Raise OSError where that cannot be done now."""

    @abstractmethod
    def send(self, event: Event) -> None:
        """Hand over one event, whole; raise OSError where it was not."""

    def watch(self) -> None:  # noqa: B027 - some have no other end
        """Raise OSError where the other end is gone; called when there is nothing to send."""

    def abort(self) -> None:  # noqa: B027 - some cannot
        """Let a `send` that waits fail; called from another thread."""

    @abstractmethod
    def close(self) -> None:
        """Close it; closed already, do nothing."""


class StdoutReceiver(Receiver):
    """Standard output, a line an event."""

    def open(self) -> None:
        """It is open from the start."""

    def send(self, event: Event) -> None:
        """Write a line."""
        line = memoryview(event.line + b"\n")
        while line:
            line = line[os.write(1, line) :]

    def close(self) -> None:
        """It stays open."""
