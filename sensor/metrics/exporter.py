"""The exporter: a separate process that answers ``GET /metrics`` as long as the supervisor lives.

The supervisor forks it before it attaches anything and before it has threads. The two share the kernel's
maps, the rings and the snapshot, but no lock: a slow or hostile client costs capture nothing, and the
figures are available while the supervisor reloads, drains or hangs.
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
from sensor.capture.compiler import bcc_version
from sensor.errors import SensorError
from sensor.metrics.catalogue import Metric
from sensor.metrics.collector import SensorCollector
from sensor.metrics.figure_source import FigureSource
from sensor.process.capabilities import keep_capabilities
from sensor.process.child import ChildProcess, FunctionProcess
from sensor.process.prctl import end_with_parent, set_process_name

CLIENT_S = 10
"""Timeout for a client's request, and for its reading of the response."""
RESTART_S = 5.0
"""Shortest time from one start to the next."""


def listen(address: str) -> socket.socket:
    """Return a socket that listens at ``address:port``.

    Raises:
        SensorError: the port is in use, or the address does not belong to this host.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if "[" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=16)
    except OSError as error:
        raise SensorError(
            f"cannot serve metrics at {address}: {os.strerror(error.errno or 0)}; "
            "choose another address with --metrics, or turn them off with --metrics ''"
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
        signal.signal(number, signal.SIG_IGN)  # the supervisor handles them, even Ctrl-C
    source = make_source()
    _close_all_but(kept_fds)
    # for the kernel's counters; if root, for evidence
    keep_capabilities("CAP_BPF", "CAP_DAC_READ_SEARCH")
    set_process_name("sensor-metrics")
    gc.freeze()  # a collection would unshare inherited memory
    registry = CollectorRegistry()
    SensorCollector(source, build_info(), constants, registry)
    server = _Server(listener)
    server.set_app(make_wsgi_app(registry))
    server.serve_forever()


def _close_all_but(kept_fds: Iterable[int]) -> None:
    """Close what was inherited: links would keep the program attached, pipes open and locks held."""
    first = 3  # after the standard streams; os.closerange(0, 0) would close everything
    for fd in sorted(kept_fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


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
    timeout = CLIENT_S

    def log_message(self, *_arguments: Any) -> None:
        """Do not log scrapes."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        address = listener.getsockname()
        super().__init__(address, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = address[:2]  # server_bind() would query the DNS
        self.setup_environ()
