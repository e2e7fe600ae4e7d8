"""What systemd hears of ``sensor run``: ready, reloading, stopping, status, signs of life; in the supervisor.

The protocol is sd_notify(3): a datagram to the socket that ``NOTIFY_SOCKET`` names, in the file system or
abstract. Without a service manager nothing is sent. A service manager that does not answer never stops
the capture.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

_PATIENCE_S = 1.0
"""Longest time a message waits for its place in the service manager's queue."""


class Notifier:
    """The service manager, as far as there is one."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Find out who wants to know what, and take that out of the environment: children are silent."""
        address = environment.pop("NOTIFY_SOCKET", "")
        period_us = int(environment.pop("WATCHDOG_USEC", "0"))
        if environment.pop("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            period_us = 0  # it is of another process
        self._feed_s = period_us / 2e6
        self._due_s = time.monotonic() if period_us else float("inf")
        self._is_reloading = False
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_PATIENCE_S)
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self) -> None:
        """Frames are captured."""
        self._send("READY=1")

    def reloading(self, now: bool) -> None:
        """Whether new rules are being loaded, as of now; to be called often."""
        if now == self._is_reloading:
            return
        self._is_reloading = now
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}") if now else self.ready()

    def stopping(self) -> None:
        """The program is detached; what is in the rings is still matched and written."""
        self._send("STOPPING=1")

    def status(self, line: str) -> None:
        """Say in a line how it goes: ``systemctl status`` shows it."""
        self._send(f"STATUS={line}")

    def alive(self) -> None:
        """Give a sign of life, twice in the time the watchdog waits for one; to be called often."""
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + self._feed_s
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Say nothing more."""
        if self._socket:
            self._socket.close()

    def _send(self, *lines: str) -> None:
        if self._socket:
            with suppress(OSError):  # it is away or busy: nothing that capture could do about
                self._socket.sendto("\n".join(lines).encode(), self._address)
