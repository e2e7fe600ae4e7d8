"""The exporter: a separate process that answers ``GET /metrics`` as long as the supervisor lives.

The supervisor forks it before it attaches anything and before it has threads. The two share the kernel's
maps and the snapshot, but no lock: a slow or hostile client costs capture nothing, and the
figures are available while the supervisor reloads, drains or hangs.
"""

from __future__ import annotations

import gc
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app
from prometheus_client.registry import CollectorRegistry

from sensor import DISTRIBUTION
from sensor.capture.compiler import bcc_version
from sensor.errors import SensorError
from sensor.metrics.collector import SensorCollector
from sensor.metrics.figure_source import FigureSource
from sensor.metrics.metric import Metric
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole
from sensor.process.capabilities import without_capabilities
from sensor.process.child import ChildProcess, FunctionProcess
from sensor.process.landlock import Access
from sensor.process.listener import ClientSocket, Connections, Listener
from sensor.process.prctl import end_with_parent, set_process_name

CLIENT_S = 10
"""Seconds that a client has to send its request and to read the response."""
CONNECTIONS_MAX, CLIENT_CONNECTIONS_MAX = 32, 4
"""Maximum number of connections at a time, each with a thread: together, and of one client."""
RESTART_S = 5.0
"""Minimum time between two starts, in seconds."""
READABLE = (Path("/proc/net"), Path("/proc/self"), Path("/sys/class/net"), Path("/sys/devices"))
"""Files of the kernel with the figures of this process, of the NICs and of their backlogs."""


def listen(address: str) -> Listener:
    """Return a socket that listens at ``address:port``, and bounds its connections.

    Raises:
        SensorError: the port is in use, or the address does not belong to this host.
    """
    host, _, port = address.rpartition(":")
    try:
        return Listener(host.strip("[]"), int(port), Connections(CONNECTIONS_MAX, CLIENT_CONNECTIONS_MAX))
    except OSError as error:
        raise SensorError(
            f"cannot serve metrics at {address}: {os.strerror(error.errno or 0)}; "
            "choose another address with --metrics, or turn them off with --metrics ''"
        ) from error


log = logging.getLogger(__name__)


class Exporter(ChildProcess):
    """The exporter, as the supervisor sees it."""

    def __init__(
        self,
        listener: Listener,
        make_source: Callable[[], FigureSource],
        kept_fds: Collection[int],
        constants: dict[Metric, float],
    ) -> None:
        """Fork it; ``make_source`` is called in the new process, and what it returns reads ``kept_fds``."""
        arguments = (listener, make_source, {listener.fileno(), *kept_fds}, constants, os.getpid())
        super().__init__(
            "the exporter",
            lambda: FunctionProcess(_serve, arguments, "exporter"),
            lambda lived_s: max(0.0, RESTART_S - lived_s),
        )


def _serve(
    listener: Listener,
    make_source: Callable[[], FigureSource],
    kept_fds: Collection[int],
    constants: dict[Metric, float],
    supervisor: int,
) -> None:
    """Answer until the supervisor, a process id, ends this process or ends itself."""
    end_with_parent(supervisor)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor handles them, even Ctrl-C
    set_process_name("sensor-metrics")
    gc.freeze()  # a collection would unshare inherited memory
    source = make_source()
    registry = CollectorRegistry()
    SensorCollector(source, build_info(), constants, registry)
    server = _Server(listener)
    server.set_app(make_wsgi_app(registry))
    os.chdir(source.evidence_directory)  # this user may not be able to enter a directory above it
    source.evidence_directory = Path()
    sandbox.enter(
        ProcessRole.EXPORTER,
        descriptors=kept_fds,
        shared=source.shared_addresses,
        groups=[Path().stat().st_gid],
        access=Access(listable=(Path(),), readable=(*READABLE, *sandbox.LIBRARIES)),
        capabilities=_capabilities(source),
        supervisor=supervisor,
    )
    server.serve_forever()


def _capabilities(source: FigureSource) -> tuple[str, ...]:
    """Return the capabilities without which the kernel's counters cannot be read: none since Linux 5.19."""
    with without_capabilities():
        try:
            source.kernel()
        except PermissionError:
            return ("CAP_BPF",)
    return ()


def build_info() -> dict[str, str]:
    """Return the versions for ``sensor_build_info``."""
    return {
        "version": version(DISTRIBUTION),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "bcc": bcc_version(),
        "hyperscan": version("hyperscan"),
    }


class _Handler(WSGIRequestHandler):
    connection: ClientSocket

    def parse_request(self) -> bool:
        """Parse the request; from then on, a new connection does not displace this one."""
        self.connection.is_answering = super().parse_request()
        return self.connection.is_answering

    def log_message(self, *_arguments: Any) -> None:
        """Do not log scrapes."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: Listener) -> None:
        address = listener.getsockname()
        super().__init__(address, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._connections = listener.connections
        self.server_name, self.server_port = address[:2]  # server_bind() would query the DNS
        self.setup_environ()

    def handle_error(self, _request: object, _client_address: object) -> None:
        """Log an error, unless the client is to blame."""
        if not isinstance(sys.exc_info()[1], OSError):
            log.exception("a request for metrics failed")

    def service_actions(self) -> None:
        """Close the connections whose time is over; called twice per second, and after each request."""
        self._connections.end_older(CLIENT_S)
