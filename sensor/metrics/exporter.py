"""The exporter: a separate process that answers ``GET /metrics`` as long as the supervisor lives.

The supervisor forks it before it attaches anything and before it has threads. The two share the kernel's
maps and the snapshot, but no lock: a slow or hostile client costs capture nothing, and the
figures are available while the supervisor reloads, drains or hangs.
"""

from __future__ import annotations

import gc
import os
import platform
import signal
import socket
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
from sensor.metrics.catalogue import Metric
from sensor.metrics.collector import SensorCollector
from sensor.metrics.figure_source import FigureSource
from sensor.process import sandbox
from sensor.process.accounts import Role
from sensor.process.capabilities import without_capabilities
from sensor.process.child import ChildProcess, FunctionProcess
from sensor.process.landlock import Access
from sensor.process.prctl import end_with_parent, set_process_name

CLIENT_S = 10
"""Seconds that a client has to send its request, and then to read the response."""
RESTART_S = 5.0
"""Minimum time between two starts, in seconds."""
READABLE = (Path("/proc/net"), Path("/proc/self"), Path("/sys/class/net"), Path("/sys/devices"))
"""Files of the kernel with the figures of this process, of the NICs and of their backlogs."""


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
    listener: socket.socket,
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
        Role.EXPORTER,
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
