"""The exporter: a process of its own that answers ``GET /metrics`` as long as the supervisor lives.

Forked by the supervisor before anything is attached and before it has threads. It shares the
kernel's maps, the rings and a board with it, and no lock: a slow or hostile client costs capture
nothing, and while the supervisor reloads, drains or hangs, the figures are there.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app
from prometheus_client.registry import CollectorRegistry

from sensor.capture.program import bcc_version
from sensor.errors import SensorError
from sensor.metrics.catalogue import Metric
from sensor.metrics.collector import SensorCollector
from sensor.metrics.figure_source import FigureSource
from sensor.process.capabilities import keep_capabilities

CLIENT_S = 10
"""How long a client may take to ask or to listen."""
RESTART_S = 5.0
"""At least between two starts."""
_PR_SET_PDEATHSIG = 1

_fork = multiprocessing.get_context("fork")
log = logging.getLogger(__name__)


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


class Exporter:
    """The process, as the supervisor sees it."""

    def __init__(
        self,
        listener: socket.socket,
        make_source: Callable[[], FigureSource],
        kept_fds: Iterable[int],
        constants: dict[Metric, float],
    ) -> None:
        """Fork it. ``make_source`` is called in the new process; what it makes reads ``kept_fds``."""
        self._listener = listener
        self._make_source = make_source
        self._kept_fds = {listener.fileno(), *kept_fds}
        self._constants = constants
        self._start()

    def _start(self) -> None:
        arguments = (self._listener, self._make_source, self._kept_fds, self._constants)
        self._process = _fork.Process(target=_serve, args=arguments, name="exporter", daemon=True)
        self._process.start()
        self._started_s = time.monotonic()

    def tick(self) -> None:
        """Start another where it has died. To be called now and then."""
        if self._process.exitcode is not None and time.monotonic() - self._started_s >= RESTART_S:
            log.error("the exporter died (exit code %s); starting another", self._process.exitcode)
            self._process.close()
            self._start()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()
        self._listener.close()


def _serve(
    listener: socket.socket,
    make_source: Callable[[], FigureSource],
    kept_fds: Iterable[int],
    constants: dict[Metric, float],
) -> None:
    """Answer until the supervisor ends this process, or is gone."""
    supervisor = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the supervisor's, even from the terminal
    source = make_source()
    _close_all_but(kept_fds)
    keep_capabilities(
        "CAP_BPF", "CAP_DAC_READ_SEARCH"
    )  # for the kernel's counters and, as root, for evidence
    with suppress(OSError):  # only for those who look with ps
        Path("/proc/self/comm").write_text("sensor-metrics", encoding="ascii")
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
        "version": version("sensor"),
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
