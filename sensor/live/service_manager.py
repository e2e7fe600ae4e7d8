"""Notifies systemd: ready, reloading, stopping, status, watchdog. Runs in the supervisor.

The protocol is sd_notify(3): datagrams to the socket named in ``NOTIFY_SOCKET``, in the file system or
abstract. Without a service manager nothing is sent. One that does not answer never stops the capture.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

_SEND_S = 1.0
"""Longest time a message waits for room in the service manager's queue."""


class Notifier:
    """Sends notifications to the service manager, if there is one."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Read the variables of the protocol and remove them, so that child processes send nothing."""
        address = environment.pop("NOTIFY_SOCKET", "")
        period_us = int(environment.pop("WATCHDOG_USEC", "0"))
        if environment.pop("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            period_us = 0  # the watchdog is meant for another process
        self._interval_s = period_us / 2e6
        self._due_s = time.monotonic() if period_us else float("inf")
        self._is_reloading = False
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_SEND_S)
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self) -> None:
        """Notify that frames are captured."""
        self._send("READY=1")

    def reloading(self, is_reloading: bool) -> None:
        """Notify when a reload of the rules begins and ends; call this regularly."""
        if is_reloading == self._is_reloading:
            return
        self._is_reloading = is_reloading
        if is_reloading:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        else:
            self.ready()

    def stopping(self) -> None:
        """Notify that the program is detached; frames in the rings are still matched and written."""
        self._send("STOPPING=1")

    def status(self, line: str) -> None:
        """Send the status line that ``systemctl status`` shows."""
        self._send(f"STATUS={line}")

    def alive(self) -> None:
        """Feed the watchdog twice per period; call this regularly."""
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + self._interval_s
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        if self._socket:
            self._socket.close()

    def _send(self, *lines: str) -> None:
        if self._socket:
            with suppress(OSError):  # a service manager that is gone or busy is no reason to stop
                self._socket.sendto("\n".join(lines).encode(), self._address)
