"""A listening TCP socket that bounds its connections. Runs in the API process and in the exporter.

The bound holds from accept(2) on, before a byte is read and before TLS. A client is an IPv4 address, or an
IPv6 network of 64 bits, which is what one subscriber gets. A new connection is preferred to one that waits
for a request: whoever opens connections and says nothing loses them first.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

BACKLOG = 128
_Network = IPv4Network | IPv6Network
LOOPBACK: tuple[_Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1"))


def address_of(text: str) -> IPv4Address | IPv6Address:
    """Return an address; one of IPv4 that IPv6 carries (``::ffff:192.0.2.1``) as one of IPv4."""
    address = ip_address(text.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def client_of(text: str) -> str:
    """Return the client behind an address: the address, or for IPv6 its network of 64 bits."""
    address = address_of(text)
    return str(ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


def is_in(text: str, networks: Collection[_Network]) -> bool:
    """Return True if an address lies in one of the networks."""
    address = address_of(text)
    return any(address in network for network in networks)


class Connections:
    """The open connections of a listener.

    If a client has too many, its own oldest idle one is closed; if all together are too many, the oldest idle
    one of the client that has most. ``shared`` are the addresses that stand for many clients, loopback and
    proxies: they have no limit of their own.
    """

    def __init__(self, most: int, most_per_client: int, shared: Collection[_Network] = LOOPBACK) -> None:
        self._most, self._most_per_client, self._shared = most, most_per_client, shared
        self._open: dict[tuple[Any, ...], ClientSocket] = {}
        self._lock = threading.Lock()  # the exporter closes connections in threads

    def admit(self, new: ClientSocket) -> bool:
        """Add a connection, and close another one if there are too many; return False to refuse it."""
        with self._lock:
            others = list(self._open.values())
            counts = Counter(one.client for one in others if not is_in(one.address[0], self._shared))
            if counts[new.client] >= self._most_per_client:
                others = [one for one in others if one.client == new.client]
            elif len(others) < self._most:
                others = []
            if others:
                victim = max(others, key=lambda one: (not one.is_answering, counts[one.client], -one.since_s))
                if victim.is_answering and counts[victim.client] <= counts[new.client] + 1:
                    return False
                self._end(victim)
            self._open[new.address] = new
            return True

    @contextmanager
    def answering(self, address: tuple[Any, ...] | None) -> Iterator[None]:
        """Keep a connection from being closed while its request is answered; it is known by its peer."""
        connection = self._open.get(tuple(address or ()))
        if connection:
            connection.is_answering = True
        try:
            yield
        finally:
            if connection:
                connection.is_answering = False
                connection.since_s = time.monotonic()

    def end_older(self, seconds: float) -> None:
        """Close the connections that were opened, or got their last answer, longer ago than this."""
        with self._lock:
            for one in list(self._open.values()):
                if time.monotonic() - one.since_s > seconds:
                    self._end(one)

    def discard(self, connection: ClientSocket) -> None:
        """Forget a connection that is being closed."""
        with self._lock:
            if self._open.get(connection.address) is connection:
                del self._open[connection.address]

    def _end(self, connection: ClientSocket) -> None:
        """Make reads and writes of a connection end; its owner then closes it."""
        del self._open[connection.address]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class ClientSocket(socket.socket):
    """An accepted connection."""

    def __init__(self, accepted: socket.socket, address: tuple[Any, ...], connections: Connections) -> None:
        super().__init__(fileno=accepted.detach())
        self.address = address[:2]
        self.client = client_of(address[0])
        self.since_s = time.monotonic()
        self.is_answering = False
        self._connections = connections

    def close(self) -> None:
        """Close it, and forget it."""
        self._connections.discard(self)
        super().close()


class Listener(socket.socket):
    """A listening socket.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(self, host: str, port: int, connections: Connections) -> None:
        """Listen on an address, without brackets; ``::`` means all addresses of IPv6 and IPv4."""
        # asyncio disables Nagle's delay (40 ms per answer) only on sockets with an explicit protocol.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.connections = connections
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self.bind((host, port))
            self.listen(BACKLOG)
        except OSError:
            self.close()
            raise

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            ConnectionAbortedError: there are too many connections, so this one was closed.
        """
        accepted, address = super().accept()
        connection = ClientSocket(accepted, address, self.connections)
        if not self.connections.admit(connection):
            connection.close()
            raise ConnectionAbortedError(os.strerror(103))
        return connection, address
