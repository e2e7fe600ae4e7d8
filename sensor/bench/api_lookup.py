"""The time the API takes to find a packet by its microsecond. Runs in ``sensor bench store``.

Requests go over HTTP on one connection, one after the other, as a client would send them.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from sensor.errors import SensorError

START_S = 60


def is_available() -> bool:
    """Return True if this sensor has an API."""
    return find_spec("sensor.api") is not None


def lookups_ms(directory: Path, times_us: Iterable[int], *, is_attacked: bool = False) -> Iterator[float]:
    """Look up the packet of each microsecond in turn, and yield the time each answer took.

    Meanwhile, ``is_attacked`` has hostile clients keep the API busy.
    """
    with (
        _server(directory) as port,
        _hostile_clients(port) if is_attacked else nullcontext(),
        closing(HTTPConnection("127.0.0.1", port, timeout=START_S)) as connection,
    ):
        for time_us in times_us:
            start_s = time.perf_counter()
            connection.request("GET", f"/evidence?time={time_us}")
            response = connection.getresponse()
            body = response.read()
            yield (time.perf_counter() - start_s) * 1e3
            if response.status != 200 or b'"packet"' not in body:
                raise SensorError(f"the API does not find the packet of {time_us}: {body[:200]!r}")


@contextmanager
def _hostile_clients(port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "sensor.bench.hostile_clients", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as clients:
        try:
            assert clients.stdout  # noqa: S101 - it is a pipe
            clients.stdout.readline()
            yield
        finally:
            clients.kill()


@contextmanager
def _server(directory: Path) -> Iterator[int]:
    """Run ``sensor serve`` on a free port of the loopback interface, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for path in (directory, *directory.rglob("*")):  # the API does not run as root
        path.chmod(0o755 if path.is_dir() else 0o644)
    command = [sys.executable, "-m", "sensor", "serve", "--evidence", str(directory)]
    options = ["--listen", f"127.0.0.1:{port}", "--request-rate", "0", "--until-eof"]
    with (
        TemporaryFile("w+") as errors,  # a full pipe would stall the server
        subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stderr=errors) as server,
    ):
        try:
            if not _is_listening(port, server):
                server.kill()
                errors.seek(0)
                raise SensorError(f"sensor serve does not answer: {errors.read().strip()}")
            yield port
        finally:
            server.terminate()


def _is_listening(port: int, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the server accepts connections; return False if it ends or takes too long."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return True
    return False
