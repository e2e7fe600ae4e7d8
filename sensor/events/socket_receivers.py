"""Receivers over sockets: syslog (RFC 5424) over UDP (RFC 5426), TCP (RFC 6587) and TLS (RFC 5425); unix.

Runs in the event sender. Syslog has no acknowledgement, so an event counts as sent once the kernel accepts
it. Before each event a receiver checks whether the other end has closed the connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from sensor.events.eve import SEVERITY_THREAT, Event
from sensor.events.receiver import Receiver
from sensor.process.granted_paths import Grant
from sensor.text import utc_text

CONNECT_S = 10.0
SILENT_MS = 60_000
"""A connection fails if the peer acknowledges nothing, or has no room, for this long (tcp(7))."""
LOCAL5 = 21 << 3
"""The syslog facility, the same as Suricata's."""
WARNING, INFORMATIONAL = 4, 6
_SOURCE = f"{socket.gethostname()} sensor {os.getppid()} alert -"
"""HOSTNAME, APP-NAME, PROCID (the supervisor), MSGID; no structured data."""


def syslog(event: Event) -> bytes:
    """Return an event as a message of RFC 5424; it is ASCII and needs no byte order mark."""
    severity = WARNING if event.severity == SEVERITY_THREAT else INFORMATIONAL
    return f"<{LOCAL5 | severity}>1 {utc_text(event.time_us)}Z {_SOURCE} ".encode() + event.line


class SocketReceiver(Receiver):
    """A receiver with a new socket for each connection."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connect."""
        self._socket = self._connect()

    @abstractmethod
    def _connect(self) -> socket.socket: ...

    def send(self, event: Event) -> None:
        """Check that the other end is there, then send."""
        self.watch()
        assert self._socket  # noqa: S101 - it is open
        self._socket.sendall(self._frame(event))

    @abstractmethod
    def _frame(self, event: Event) -> bytes: ...

    def watch(self) -> None:
        """Discard what the other end sends. Raises OSError if it has closed the connection."""
        assert self._socket  # noqa: S101 - it is open
        self._socket.setblocking(False)
        try:
            while self._socket.recv(4096):
                pass
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        finally:
            self._socket.setblocking(True)
        raise ConnectionResetError(errno.ECONNRESET, "closed by the receiver")

    def abort(self) -> None:
        """Shut the socket down: a process killed inside send(2) may send bytes that it has not counted."""
        if connection := self._socket:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # for TLS too: the plain socket

    def close(self) -> None:
        """Close the socket; the kernel still delivers what it has accepted."""
        if self._socket:
            self._socket.close()
            self._socket = None


class UdpSyslog(SocketReceiver):
    """Syslog over UDP, one message per datagram. A refusal arrives late: one datagram is lost by then."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._address = (host, port)

    def _connect(self) -> socket.socket:
        family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
        connection = socket.socket(family, kind, protocol)
        connection.connect(address)
        return connection

    def watch(self) -> None:
        """Raise OSError if the host has refused an earlier datagram."""
        assert self._socket  # noqa: S101 - it is open
        with contextlib.suppress(BlockingIOError):
            self._socket.recv(1, socket.MSG_DONTWAIT)

    def _frame(self, event: Event) -> bytes:
        return syslog(event)


class TcpSyslog(SocketReceiver):
    """Syslog over TCP; each message follows its length (octet counting, RFC 6587, 3.4.1)."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._address = (host, port)

    def ports(self) -> list[int]:
        """Return the port of the server."""
        return [self._address[1]]

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=CONNECT_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS)
        connection.settimeout(None)
        return connection

    def _frame(self, event: Event) -> bytes:
        message = syslog(event)
        return b"%d %b" % (len(message), message)


class TlsSyslog(TcpSyslog):
    """Syslog over TLS; the server must prove its name, and may ask for a client certificate."""

    def __init__(self, host: str, port: int, ca: str | None, cert: str | None, key: str | None) -> None:
        """Take PEM files; ``ca`` defaults to the system's authorities, ``cert`` may contain its key."""
        super().__init__(host, port)
        self._ca, self._cert, self._key = ca, cert, key
        if key and not cert:
            raise ValueError("key needs cert, the certificate that belongs to it")

    def grants(self) -> list[Grant]:
        """Return the files of the certificates."""
        return [Grant("read", Path(path)) for path in (self._ca, self._cert, self._key) if path]

    def check(self) -> None:
        """Load the certificates once, to see that they are valid."""
        self._context()

    def _context(self) -> ssl.SSLContext:
        """Load the certificates; done for each connection, because they get renewed."""
        with ExitStack() as stack:
            ca, cert, key = (
                stack.enter_context(self._copy(Path(path))) if path else None
                for path in (self._ca, self._cert, self._key)
            )
            context = ssl.create_default_context(cafile=ca)
            if cert:
                context.load_cert_chain(cert, key)
            return context

    @contextlib.contextmanager
    def _copy(self, path: Path) -> Iterator[str]:
        """Yield the path of a copy in memory: the ssl module opens only paths, and as this user."""
        with os.fdopen(self.files.read(path), "rb") as file:
            content = file.read()
        with os.fdopen(os.memfd_create("sensor-certificate"), "wb") as copy:
            copy.write(content)
            copy.flush()
            yield f"/proc/self/fd/{copy.fileno()}"

    def _connect(self) -> socket.socket:
        connection = super()._connect()
        connection.settimeout(CONNECT_S)
        try:
            wrapped = self._context().wrap_socket(connection, server_hostname=self._address[0])
        except BaseException:
            connection.close()
            raise
        wrapped.settimeout(None)
        return wrapped

    def close(self) -> None:
        """Send close_notify (RFC 5425, 4.4), so that a truncated last message is noticed, and close."""
        if isinstance(self._socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._socket.settimeout(1)
                self._socket.unwrap()
        super().close()


class UnixSocket(SocketReceiver):
    """A unix socket: lines over a stream, or one datagram per event; the listener's type decides."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._ends_lines = True

    def grants(self) -> list[Grant]:
        """Return the socket to connect to."""
        return [Grant("connect", self._path)]

    def _connect(self) -> socket.socket:
        connection = self.files.connect(self._path)
        self._ends_lines = connection.type == socket.SOCK_STREAM
        return connection

    def _frame(self, event: Event) -> bytes:
        return event.line + b"\n" if self._ends_lines else event.line
