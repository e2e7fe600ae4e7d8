"""The interface of all receivers of events, and the simplest receiver: standard output.

Runs in the event sender, one thread per receiver, so `Receiver.send` may block for as long as it needs.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import ClassVar

from sensor.events.eve import Event
from sensor.process.granted_paths import Files, Grant


class ReplacedError(OSError):
    """The name of an open receiver means something else now, and nobody has asked to reopen it."""


class Receiver(ABC):
    """A place that events are sent to. After a failure it is closed, and may be opened again."""

    files: Files = Files()
    """Opens what the receiver needs by its path."""

    reopens: ClassVar[bool] = False
    """True if SIGHUP closes and opens it again, because its name may mean another file by then."""

    def grants(self) -> list[Grant]:
        """Return what the receiver does with paths."""
        return []

    def ports(self) -> list[int]:
        """Return the TCP ports that the receiver connects to."""
        return []

    def check(self) -> None:  # noqa: B027 - most have nothing to check
        """Find faults that can be seen before the start. Raises OSError or ValueError."""

    @abstractmethod
    def open(self) -> None:
        """Open the receiver. Raises OSError if that fails now."""

    @abstractmethod
    def send(self, event: Event) -> None:
        """Send one whole event. Raises OSError if it was not sent; `ReplacedError`: open, and try again."""

    def watch(self) -> None:  # noqa: B027 - some have no other end
        """Raise OSError if the other end is gone, as `send` does; called while there is nothing to send."""

    def abort(self) -> None:  # noqa: B027 - some cannot
        """Make a blocked `send` fail; called from another thread."""

    @abstractmethod
    def close(self) -> None:
        """Close the receiver; do nothing if it is closed already."""


class StdoutReceiver(Receiver):
    """Standard output, one line per event."""

    def open(self) -> None:
        """Do nothing: standard output is open from the start."""

    def send(self, event: Event) -> None:
        """Write one line."""
        line = memoryview(event.line + b"\n")
        while line:
            line = line[os.write(1, line) :]

    def close(self) -> None:
        """Do nothing: standard output stays open."""
