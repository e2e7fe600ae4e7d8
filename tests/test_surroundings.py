"""The watch over API and certificates, which the sensor needs, but which are not its own work."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sensor.config.certificate import expiry_s
from sensor.config.settings import Settings
from sensor.live.surroundings import Surroundings, answers

DAY_S = 86_400


def certificate(directory: Path, days: int, name: str = "cert") -> tuple[Path, Path]:
    """Make a certificate that is valid for some days; return its file and that of its key."""
    cert, key = directory / f"{name}.pem", directory / f"{name}-key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=sensor", "-days", str(days), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@contextmanager
def server(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """Pass one connection to a function in a thread; yield the port."""

    def accept() -> None:
        connection, _ = listener.accept()
        with connection:
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def http(connection: socket.socket) -> None:
    """Answer a request with an error, which is an answer."""
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")


@pytest.mark.parametrize(
    ("serve", "is_up"),
    [(http, True), (lambda connection: connection.recv(4096), False), (lambda _connection: None, False)],
    ids=["an error", "closes after the request", "closes at once"],
)
def test_only_an_answer_counts(serve: Callable[[socket.socket], object], is_up: bool) -> None:
    """Any status is an answer; an open port is none."""
    with server(serve) as port:
        assert answers("127.0.0.1", port, tls=False) is is_up
    assert not answers("127.0.0.1", port, tls=False), "nothing listens"


@pytest.mark.parametrize("wants_client", [False, True])
def test_the_api_answers_with_tls(tmp_path: Path, wants_client: bool) -> None:
    """A server that demands a client's certificate is there too."""
    cert, key = certificate(tmp_path, 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED

    def serve(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as encrypted:
                http(encrypted)
        except OSError:
            pass  # the client only shakes hands

    with server(serve) as port:
        assert answers("127.0.0.1", port, tls=True)
    with server(http) as port:
        assert not answers("127.0.0.1", port, tls=True)


def test_the_first_certificate_to_expire_counts(tmp_path: Path) -> None:
    """A file may hold a chain, and keys, and text."""
    long, _ = certificate(tmp_path, 20_000, "long")  # ends after 2049: the other form of a time
    short, key = certificate(tmp_path, 3, "short")
    chain = tmp_path / "chain.pem"
    chain.write_text(f"the chain\n{long.read_text()}{key.read_text()}{short.read_text()}")
    now_s = time.time()
    assert expiry_s(long) - now_s == pytest.approx(20_000 * DAY_S, abs=60)
    assert expiry_s(chain) == expiry_s(short) == pytest.approx(now_s + 3 * DAY_S, abs=60)


def test_what_is_no_certificate_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damaged, missing and strange files cost a line of the log each; the others are read."""
    good, _ = certificate(tmp_path, 3)
    body = good.read_text()
    (tmp_path / "cut.pem").write_text(body.replace("\n", "", 1).replace("MII", "MIM", 1))
    (tmp_path / "text.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    os.mkfifo(tmp_path / "fifo.pem")
    names = ("missing", "cut", "text", "fifo")
    events = tuple(f"syslog+tls://h:1?cert={tmp_path}/{name}.pem" for name in names)
    surroundings = Surroundings(Settings(tls_cert=good, events=events, listen="127.0.0.1:0"))
    surroundings.look()
    surroundings.look()
    assert surroundings.figures.certificates == {str(good): expiry_s(good)}
    assert surroundings.figures.api_up is None
    assert len(caplog.messages) == len(names)
