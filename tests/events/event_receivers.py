"""Receivers of events as they are met: syslog servers over UDP, TCP and TLS, and unix sockets.

They understand only what the RFCs say: whatever else arrives is an assertion that fails.
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
    """The event in a message of RFC 5424, whose header says the same."""
    found = SYSLOG.fullmatch(message)
    assert found, message
    event = dict(json.loads(found["message"]))
    severity = 4 if event["alert"]["severity"] == 1 else 6
    assert int(found["pri"]) == 21 * 8 + severity
    assert found["time"].decode().removesuffix("Z") == event["timestamp"].removesuffix("+0000")
    return event


class Receiver:
    """Takes connections, one after the other, and keeps what it reads as events."""

    def __init__(self, listener: socket.socket, take: Callable[[Receiver, socket.socket], None]) -> None:
        self.events: list[dict[str, Any]] = []
        self.torn = 0
        """Bytes behind the last whole message of connections that ended."""
        self.connections = -1
        """Connections that were tried before the one it waits for."""
        self._listener = listener
        self._take = take
        self._connection: socket.socket | None = None
        self._reads = threading.Event()
        self._reads.set()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def pause(self) -> None:
        """Stop reading, with the connection open."""
        self._reads.clear()

    def go_on(self) -> None:
        """Read again."""
        self._reads.set()

    def may_read(self) -> None:
        """Return when it is not paused."""
        self._reads.wait()

    def _serve(self) -> None:
        with suppress(OSError):
            if self._listener.type == socket.SOCK_DGRAM:
                self._take(self, self._listener)
            while True:
                self.connections += 1
                with suppress(ConnectionError, ssl.SSLError):
                    self._connection, _ = self._listener.accept()
                    with self._connection:
                        self._take(self, self._connection)

    def hang_up(self) -> None:
        """End the connection, once it is taken, and take the next one."""
        wait_until(lambda: self._connection and self._connection.fileno() >= 0)
        assert self._connection
        self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Die: no listener and no connection any more."""
        self._reads.set()
        for one in (self._listener, self._connection):
            if one:
                with suppress(OSError):  # of a datagram socket, too, this ends what waits for it
                    one.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def read_counted(receiver: Receiver, connection: socket.socket) -> None:
    """Messages preceded by their length: RFC 6587, 3.4.1, and RFC 5425, 4.3."""
    waiting = b""
    while True:
        receiver.may_read()
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


def read_lines(receiver: Receiver, connection: socket.socket) -> None:
    """JSON, a line each."""
    with connection.makefile("rb") as file:
        for line in file:
            receiver.may_read()
            receiver.events.append(json.loads(line))


def read_datagrams(receiver: Receiver, connection: socket.socket) -> None:
    """A message each; an empty one is the end."""
    while data := connection.recv(65536):
        receiver.may_read()
        receiver.events.append(json.loads(data) if data.startswith(b"{") else parsed(data))


@contextmanager
def receiving(listener: socket.socket, take: Callable[[Receiver, socket.socket], None]) -> Iterator[Receiver]:
    """A receiver that is closed in the end."""
    receiver = Receiver(listener, take)
    try:
        yield receiver
    finally:
        receiver.close()


def tcp(port: int = 0) -> socket.socket:
    """A listener on loopback."""
    return socket.create_server(("127.0.0.1", port))


def udp() -> socket.socket:
    """A datagram socket on loopback, with room for what comes at once."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    made.bind(("127.0.0.1", 0))
    return made


def unix(path: Path, kind: socket.SocketKind) -> socket.socket:
    """A unix socket."""
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(str(path))
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


class Authority:
    """A certificate authority of one's own, in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.ca = directory / "ca.pem"
        self._openssl(
            "req", "-x509", "-subj", f"/CN=CA {directory.name}", "-keyout", "ca.key", "-out", "ca.pem"
        )

    def issue(self, name: str, alternative: str) -> tuple[Path, Path]:
        """Certificate and key for a name such as ``IP:127.0.0.1``."""
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
        """Let a listener on 127.0.0.1 speak TLS."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(*self.issue("server", "IP:127.0.0.1"))
        context.verify_mode = ssl.CERT_REQUIRED if wants_certificate else ssl.CERT_NONE
        return context.wrap_socket(listener, server_side=True)
