"""Watches what the sensor needs but does not do itself: the clock, the API, and certificates.

Runs in the supervisor, in a thread of its own, because each of them may make it wait.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import threading
import time
from pathlib import Path

from sensor.capture.syscalls import clock_is_synchronised
from sensor.config.certificate import expiry_s
from sensor.config.settings import Settings
from sensor.events.url import client_certificates
from sensor.metrics.snapshot import SurroundingsFigures

PERIOD_S = 15.0
TIMEOUT_S = 5.0
"""Longest time for each step of a request to the API."""

log = logging.getLogger(__name__)


class Surroundings:
    """The state of what is around the sensor, as of some seconds ago."""

    def __init__(self, settings: Settings) -> None:
        self.figures = SurroundingsFigures()
        self._settings = settings
        self._certificates = client_certificates(settings.events)
        if settings.tls_cert:
            self._certificates.insert(0, settings.tls_cert)
        self._unreadable: set[Path] = set()
        self._thread: threading.Thread | None = None
        self._due_s = 0.0

    def tick(self) -> None:
        """Look again if it is time to; never waits."""
        if time.monotonic() < self._due_s or (self._thread and self._thread.is_alive()):
            return
        self._due_s = time.monotonic() + PERIOD_S
        self._thread = threading.Thread(target=self.look, name="surroundings", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Look at everything once."""
        self.figures = SurroundingsFigures(clock_is_synchronised(), self._api_is_up(), self._expiries())

    def _api_is_up(self) -> bool | None:
        host, port = self._settings.listen_host, self._settings.listen_port
        return answers(host, port, tls=self._settings.tls_cert is not None) if port else None

    def _expiries(self) -> dict[str, float]:
        found = {}
        for path in self._certificates:
            try:
                found[str(path)] = expiry_s(path)
                self._unreadable.discard(path)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                if path not in self._unreadable:
                    log.warning("%s: cannot see when it expires: %s", path, reason)
                self._unreadable.add(path)
        return found


def answers(host: str, port: int, *, tls: bool) -> bool:
    """Return True if something at an address answers HTTP, whatever it answers, or shakes hands for TLS.

    Behind TLS it may answer only clients with a certificate. An address that stands for all of this host's is
    asked through loopback.
    """
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect((str(address), port))
            if tls:
                _any_certificate().wrap_socket(connection).close()
                return True
            name = f"[{address}]" if address.version == 6 else str(address)
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(16).startswith(b"HTTP/1.")
    except OSError:  # also of TLS
        return False


def _any_certificate() -> ssl.SSLContext:
    """Return a context that believes every certificate: only the answer counts, and nothing is told."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
