"""Fake receivers for tests: syslog servers over UDP, TCP and TLS, and unix sockets.

They accept only what the RFCs allow; anything else fails an assertion.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from processes import wait_until

TIMEOUT_S = 30
SYSLOG = re.compile(
    rb"<(?P<pri>\d{1,3})>1 (?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (?P<host>[!-~]{1,255})"
    rb" sensor (?P<pid>\d+) alert - (?P<message>\{.*\})",
    re.DOTALL,
)


def parsed(message: bytes) -> dict[str, Any]:
    """Return the event in a message of RFC 5424; check that the header agrees with it."""
    found = SYSLOG.fullmatch(message)
    assert found, message
    event = dict(json.loads(found["message"]))
    severity = 4 if event["alert"]["severity"] == 1 else 6
    assert int(found["pri"]) == 21 * 8 + severity
    assert found["time"].decode().removesuffix("Z") == event["timestamp"].removesuffix("+0000")
    return event


Read = Callable[["FakeReceiver", socket.socket], None]
"""A function that reads a connection to its end."""


class FakeReceiver:
    """A server that accepts one connection after another and stores the events it reads."""

    def __init__(self, listener: socket.socket, read: Read) -> None:
        self.events: list[dict[str, Any]] = []
        self.torn = 0
        """Bytes after the last whole message, of connections that ended."""
        self.connections = -1
        """Number of connections accepted or tried so far."""
        self._listener = listener
        self._read = read
        self._connection: socket.socket | None = None
        self._reads = threading.Event()
        self._reads.set()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listener.getsockname()[1])

    def pause(self) -> None:
        """Stop reading; the connection stays open."""
        self._reads.clear()

    def resume(self) -> None:
        """Read again."""
        self._reads.set()

    def wait_while_paused(self) -> None:
        """Return once it is not paused."""
        self._reads.wait()

    def _serve(self) -> None:
        with suppress(OSError):
            if self._listener.type == socket.SOCK_DGRAM:
                self._read(self, self._listener)
            while True:
                self.connections += 1
                with suppress(ConnectionError, ssl.SSLError):
                    self._connection, _ = self._listener.accept()
                    with self._connection:
                        self._read(self, self._connection)

    def hang_up(self) -> None:
        """Wait for a connection and end it; the next one is accepted."""
        wait_until(lambda: self._connection and self._connection.fileno() >= 0)
        assert self._connection
        self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the listener and the connection."""
        self._reads.set()
        for one in (self._listener, self._connection):
            if one:
                with suppress(OSError):  # wakes the thread, for a datagram socket too
                    one.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def read_counted(receiver: FakeReceiver, connection: socket.socket) -> None:
    """Read messages that follow their length (RFC 6587, 3.4.1; RFC 5425, 4.3)."""
    waiting = b""
    while True:
        receiver.wait_while_paused()
        data = connection.recv(65536)
        waiting += data
        while found := re.match(rb"([1-9]\d*) ", waiting):
            end = found.end() + int(found[1])
            if len(waiting) < end:
                break
            receiver.events.append(parsed(waiting[found.end() : end]))
            waiting = waiting[end:]
        if not data:
            receiver.torn += len(waiting)
            return


def read_lines(receiver: FakeReceiver, connection: socket.socket) -> None:
    """Read JSON, one event per line."""
    with connection.makefile("rb") as file:
        for line in file:
            receiver.wait_while_paused()
            receiver.events.append(json.loads(line))


def read_datagrams(receiver: FakeReceiver, connection: socket.socket) -> None:
    """Read one message per datagram; an empty one is the end."""
    while data := connection.recv(65536):
        receiver.wait_while_paused()
        receiver.events.append(json.loads(data) if data.startswith(b"{") else parsed(data))


@contextmanager
def receiving(listener: socket.socket, read: Read) -> Iterator[FakeReceiver]:
    """Run a fake receiver and close it at the end."""
    receiver = FakeReceiver(listener, read)
    try:
        yield receiver
    finally:
        receiver.close()


def tcp(port: int = 0) -> socket.socket:
    """Return a TCP listener on loopback."""
    return socket.create_server(("127.0.0.1", port))


def udp() -> socket.socket:
    """Return a UDP socket on loopback with a large receive buffer."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    made.bind(("127.0.0.1", 0))
    return made


def unix(path: Path, kind: socket.SocketKind) -> socket.socket:
    """Return a unix socket, listening if it is a stream."""
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(str(path))
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


class Authority:
    """A certificate authority for tests, in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.ca = directory / "ca.pem"
        self._openssl(
            "req", "-x509", "-subj", f"/CN=CA {directory.name}", "-keyout", "ca.key", "-out", "ca.pem"
        )

    def issue(self, name: str, alternative: str) -> tuple[Path, Path]:
        """Return certificate and key for a name such as ``IP:127.0.0.1``."""
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem", "-CA", "ca.pem", "-CAkey", "ca.key")
        self._openssl(
            "req", "-x509", "-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative}", *files
        )
        return self._directory / f"{name}.pem", self._directory / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "1")
        command = ["openssl", *arguments, *key]
        subprocess.run(command, check=True, cwd=self._directory, capture_output=True)

    def server(self, listener: socket.socket, *, wants_certificate: bool = False) -> ssl.SSLSocket:
        """Wrap a listener on 127.0.0.1 in TLS."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(*self.issue("server", "IP:127.0.0.1"))
        context.verify_mode = ssl.CERT_REQUIRED if wants_certificate else ssl.CERT_NONE
        return context.wrap_socket(listener, server_side=True)
