"""The end of a query: a time, or the moment its client has gone. Runs in the API process.

The event loop notices that a client has gone. The query, in a thread, checks for both every few milliseconds:
between rows, and inside SQLite (`sensor.evidence.index_connection.interrupt_by`).
"""

from __future__ import annotations

import time

from sensor.errors import SensorError


class QueryTimeoutError(SensorError):
    """A query was ended at its deadline."""


class ClientGoneError(SensorError):
    """A query was ended because its client has closed the connection."""


class Deadline:
    """The deadline of one request."""

    def __init__(self, seconds: float, setting: str) -> None:
        """End a query after a time; the setting is the one that says so."""
        self.extend(seconds, setting)
        self.is_abandoned = False
        """True once the client has gone."""

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, or 0."""
        return max(0.0, self._ends_s - time.monotonic())

    def extend(self, seconds: float, setting: str) -> None:
        """Move the deadline to ``seconds`` from now."""
        self._seconds, self._setting = seconds, setting
        self._ends_s = time.monotonic() + seconds

    def abandon(self) -> None:
        """End the query: its client has gone."""
        self.is_abandoned = True

    def check(self) -> None:
        """Do nothing while there is time and somebody waits for the answer.

        Raises:
            ClientGoneError: the client has gone.
            QueryTimeoutError: the time is over.
        """
        if self.is_abandoned:
            raise ClientGoneError("the client has closed the connection")
        if time.monotonic() > self._ends_s:
            raise QueryTimeoutError(
                f"the query was ended after {self._seconds:g} seconds; narrow the time range (since_us,"
                f" until_us) or filter by address, port or rule, or raise {self._setting}"
            )
