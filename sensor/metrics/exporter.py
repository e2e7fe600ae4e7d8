"""The exporter: a process of its own that answers ``GET /metrics`` as long as the supervisor lives.

Forked by the supervisor before anything is attached and before it has threads. It shares the
kernel's maps, the rings and a board with it, and no lock: a slow or hostile client costs capture
nothing, and while the supervisor reloads, drains or hangs, the figures are there.
"""

from __future__ import annotations

import gc
import os
import platform
import signal
import socket
from collections.abc import Callable, Iterable
from importlib.metadata import version
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app
from prometheus_client.registry import CollectorRegistry

from sensor import DISTRIBUTION
from sensor.capture.program import bcc_version
from sensor.errors import SensorError
from sensor.metrics.catalogue import Metric
from sensor.metrics.collector import SensorCollector
from sensor.metrics.figure_source import FigureSource
from sensor.process.capabilities import keep_capabilities
from sensor.process.child import ChildProcess, FunctionProcess
from sensor.process.prctl import end_with_parent, set_process_name

CLIENT_S = 10
"""How long a client may take to ask or to listen."""
RESTART_S = 5.0
"""Shortest time from one start to the next."""


def listen(address: str) -> socket.socket:
    """Return a socket that listens at ``address:port``.

    Raises:
        SensorError: The port is taken, or the address is not this host's.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if "[" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=16)
    except OSError as error:
        raise SensorError(
            f"metrics cannot be served at {address}: {os.strerror(error.errno or 0)}; "
            "choose another --metrics, or none: --metrics ''"
        ) from error


class Exporter(ChildProcess):
    """The exporter, as the supervisor sees it."""

    def __init__(
        self,
        listener: socket.socket,
        make_source: Callable[[], FigureSource],
        kept_fds: Iterable[int],
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
    listener: socket.socket,
    make_source: Callable[[], FigureSource],
    kept_fds: Iterable[int],
    constants: dict[Metric, float],
    supervisor: int,
) -> None:
    """Answer until the supervisor, a process id, ends this process or ends itself."""
    end_with_parent(supervisor)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the supervisor's, even from the terminal
    source = make_source()
    _close_all_but(kept_fds)
    # for the kernel's counters and, as root, for evidence
    keep_capabilities("CAP_BPF", "CAP_DAC_READ_SEARCH")
    set_process_name("sensor-metrics")
    gc.freeze()  # what was inherited is shared as long as nothing touches it
    registry = CollectorRegistry()
    SensorCollector(source, build_info(), constants, registry)
    server = _Server(listener)
    server.set_app(make_wsgi_app(registry))
    server.serve_forever()


def _close_all_but(kept_fds: Iterable[int]) -> None:
    """Let go of what was inherited: links keep a program attached, pipes keep open, locks keep locked."""
    first = 3  # behind the standard streams; of an empty range at 0, os.closerange() makes everything
    for fd in sorted(kept_fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def build_info() -> dict[str, str]:
    """Return the versions of what runs here."""
    return {
        "version": version(DISTRIBUTION),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "bcc": bcc_version(),
        "hyperscan": version("hyperscan"),
    }


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_S

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing: a scrape is no event."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        address = listener.getsockname()
        super().__init__(address, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = address[:2]  # server_bind() would ask the DNS
        self.setup_environ()
