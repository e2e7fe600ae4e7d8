"""Events over sockets: syslog (RFC 5424) over UDP (RFC 5426), TCP (RFC 6587), TLS (RFC 5425); unix sockets.

Runs in the sender. Syslog has no acknowledgement: what the kernel took is sent, as far as anybody can tell.
What can be told is told in time: an end of the connection is seen before the next event, not after it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from abc import abstractmethod
from pathlib import Path

from sensor.events.eve import SEVERITY_THREAT, Event, timestamp
from sensor.events.receiver import Receiver

CONNECT_S = 10.0
SILENT_MS = 60_000
"""A receiver that acknowledges nothing, or has no room, for so long has lost the connection (tcp(7))."""
LOCAL5 = 21 << 3
"""The facility, as Suricata has it."""
WARNING, INFORMATIONAL = 4, 6
_SOURCE = f"{socket.gethostname()} sensor {os.getppid()} alert -"
"""Host, application, process (the supervisor), kind of message, and no structured data."""


def syslog(event: Event) -> bytes:
    """Return an event as a message of RFC 5424; without a byte order mark, since it is ASCII."""
    severity = WARNING if event.severity == SEVERITY_THREAT else INFORMATIONAL
    return f"<{LOCAL5 | severity}>1 {timestamp(event.time_us, 'Z')} {_SOURCE} ".encode() + event.line


class SocketReceiver(Receiver):
    """A socket that is made anew for each connection."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connect."""
        self._socket = self._connect()

    @abstractmethod
    def _connect(self) -> socket.socket: ...

    def send(self, event: Event) -> None:
        """Find out whether the other end is there, and send."""
        self.watch()
        assert self._socket  # noqa: S101 - it is open
        self._socket.sendall(self._frame(event))

    @abstractmethod
    def _frame(self, event: Event) -> bytes: ...

    def watch(self) -> None:
        """Read what the other end says, which nobody asked for, up to its end."""
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
        """Take nothing more: the kernel may let a process that dies in send(2) send what it did not count."""
        if made := self._socket:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(made, socket.SHUT_RDWR)  # of TLS, too, the socket below

    def close(self) -> None:
        """Close it; what the kernel took is still delivered."""
        if self._socket:
            self._socket.close()
            self._socket = None


class UdpSyslog(SocketReceiver):
    """A message a datagram. A host that refuses says so after the fact: one datagram is lost by then."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._address = (host, port)

    def _connect(self) -> socket.socket:
        family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
        made = socket.socket(family, kind, protocol)
        made.connect(address)
        return made

    def watch(self) -> None:
        """Hear whether the host has refused what came before."""
        assert self._socket  # noqa: S101 - it is open
        with contextlib.suppress(BlockingIOError):
            self._socket.recv(1, socket.MSG_DONTWAIT)

    def _frame(self, event: Event) -> bytes:
        return syslog(event)


class TcpSyslog(SocketReceiver):
    """A connection; each message is preceded by its length (octet counting, RFC 6587, 3.4.1)."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._address = (host, port)

    def _connect(self) -> socket.socket:
        made = socket.create_connection(self._address, timeout=CONNECT_S)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS)
        made.settimeout(None)
        return made

    def _frame(self, event: Event) -> bytes:
        message = syslog(event)
        return b"%d %b" % (len(message), message)


class TlsSyslog(TcpSyslog):
    """The same inside TLS; the server has to prove its name, and may want a certificate of ours."""

    def __init__(self, host: str, port: int, ca: str | None, cert: str | None, key: str | None) -> None:
        """Files of PEM. Without ``ca`` the system's authorities count; ``cert`` may hold its key, too."""
        super().__init__(host, port)
        self._ca, self._cert, self._key = ca, cert, key
        if key and not cert:
            raise ValueError("key needs cert, the certificate it is the key of")

    def check(self) -> None:
        """Read the certificates."""
        self._context()

    def _context(self) -> ssl.SSLContext:
        """Read them anew for each connection: they are renewed."""
        for path in filter(None, (self._ca, self._cert, self._key)):
            Path(path).open("rb").close()  # ssl's errors name no file
        context = ssl.create_default_context(cafile=self._ca)
        if self._cert:
            context.load_cert_chain(self._cert, self._key)
        return context

    def _connect(self) -> socket.socket:
        made = super()._connect()
        made.settimeout(CONNECT_S)
        try:
            wrapped = self._context().wrap_socket(made, server_hostname=self._address[0])
        except BaseException:
            made.close()
            raise
        wrapped.settimeout(None)
        return wrapped

    def close(self) -> None:
        """Say that this is the end (RFC 5425, 4.4), so that the last message cannot be cut off unnoticed."""
        if isinstance(self._socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._socket.settimeout(1)
                self._socket.unwrap()
        super().close()


class UnixSocket(SocketReceiver):
    """Lines over a stream, or a datagram each: the kernel says which of the two the receiver made."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._ends_lines = True

    def _connect(self) -> socket.socket:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            made = socket.socket(socket.AF_UNIX, kind)
            try:
                made.connect(str(self._path))
            except OSError as error:
                made.close()
                if error.errno != errno.EPROTOTYPE or kind == socket.SOCK_DGRAM:
                    raise
            else:
                self._ends_lines = kind == socket.SOCK_STREAM
                break
        return made

    def _frame(self, event: Event) -> bytes:
        return event.line + b"\n" if self._ends_lines else event.line
