"""The API under load: long queries, clients that go, idle connections. Nothing here is timed."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import anyio
import pytest
from api_samples import NOON_US, Server, evidence_item, keep, open_directory, serving
from processes import wait_until

from sensor.api.guard import Guard, Policy
from sensor.api.tokens import TokenFile
from sensor.api.visit import Visit
from sensor.process.listener import Connections, Listener

LOOKUP = f"/evidence?time={NOON_US}"
FRUITLESS = "/api/v1/export.pcap?text=nowhere"


@pytest.fixture(scope="module")
def evidence() -> Iterator[Path]:
    """Yield enough evidence for queries that take a while."""
    with open_directory() as directory:
        items = [evidence_item(number, NOON_US + number * 1_000) for number in range(10_000)]
        yield keep(directory / "evidence", items)


def ask(server: Server, path: str) -> socket.socket:
    """Send a request and do not wait for the answer."""
    connection = connect(server)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def connect(server: Server) -> socket.socket:
    """Open a connection."""
    url = server.client.base_url
    return socket.create_connection((url.host, url.port), timeout=60)


@pytest.mark.parametrize("path", [LOOKUP, "/api/v1/evidence", "/api/v1/histogram?port=80", "/api/v1/status"])
def test_a_query_ends_at_its_deadline(evidence: Path, path: str) -> None:
    """The answer is a problem that says what to do."""
    with serving(evidence, "--query-seconds", "0.000001") as running:
        response = running.get(path)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert "narrow the time range (since_us, until_us)" in response.json()["detail"]
    assert "raise query_seconds" in response.json()["detail"]


def test_a_download_that_finds_nothing_in_time_is_a_problem(evidence: Path) -> None:
    """Before the first byte, the end of a download is an error like others."""
    with serving(evidence, "--export-seconds", "0.000001") as running:
        response = running.get("/api/v1/export.pcapng")
        assert response.status_code == 503
        assert "raise export_seconds" in response.json()["detail"]
        assert running.get(LOOKUP).status_code == 200


def test_a_download_that_is_not_received_is_closed(directory: Path) -> None:
    """A client that stops reading loses its connection, and the audit log says so."""
    large = [
        evidence_item(number, payload=b"GET / HTTP/1.1\r\n\r\n" + bytes(60_000)) for number in range(400)
    ]
    keep(directory / "evidence", large)
    with (
        serving(directory / "evidence", "--export-seconds", "1") as running,
        closing(ask(running, "/api/v1/export.pcap")) as stalled,
    ):
        wait_until(lambda: "in the middle of a long answer" in running.log.read_text())
        received = bytearray()
        try:
            while some := stalled.recv(1 << 20):
                received += some
        except ConnectionResetError:
            pass
        assert not received.endswith(b"0\r\n\r\n")
        assert "Traceback" not in running.log.read_text()
    assert [line["truncated"] for line in running.audit()] == [True]


def test_a_lookup_overtakes_long_queries(evidence: Path) -> None:
    """Two hundred connections with long, idle and unfinished requests: a lookup is answered before them."""
    with serving(evidence, "--request-rate", "0") as running, ExitStack() as stack:

        def hostile(connection: socket.socket) -> socket.socket:
            return stack.enter_context(closing(connection))

        idle = [hostile(connect(running)) for _ in range(100)]
        for connection in idle[:50]:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        waiting = [hostile(ask(running, FRUITLESS)) for _ in range(30)]
        assert running.get(LOOKUP).json()[0]["sport"] == 40_000
        answered, _, _ = select.select(waiting, [], [], 0)
        assert len(answered) < len(waiting)


def test_more_queries_than_a_client_may_have_are_refused(evidence: Path) -> None:
    """The excess gets 429; the others are answered."""
    with (
        serving(evidence, "--request-rate", "0", "--client-connections", "3") as running,
        ExitStack() as stack,
    ):
        asked = [stack.enter_context(closing(ask(running, FRUITLESS))) for _ in range(12)]
        statuses = {connection.recv(12)[9:] for connection in asked}
    assert statuses == {b"200", b"429"}


def test_idle_connections_do_not_lock_others_out(server: Server) -> None:
    """The oldest idle ones are closed when there are too many."""
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(connect(server))) for _ in range(600)]
        assert server.get("/api/v1/status").status_code == 200
        assert idle[0].recv(1) == b""


@pytest.mark.parametrize("is_together", [False, True])
def test_a_second_request_before_the_answer_is_not_read(evidence: Path, is_together: bool) -> None:
    """After the first answer the connection is closed, so that the client sends the second one again."""
    request, second = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in (FRUITLESS, "/")
    )
    with serving(evidence) as running, closing(connect(running)) as connection:
        connection.sendall(request + second if is_together else request)
        if not is_together:
            connection.sendall(second)
        received = bytearray()
        while some := connection.recv(1 << 16):
            received += some
    assert received.count(b"HTTP/1.1 200") == 1
    assert received.endswith(b"0\r\n\r\n")


def test_a_query_ends_with_its_client(tmp_path: Path) -> None:
    """When the client has gone, the guard ends the query and cancels the answer."""
    visits: list[Visit] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        visits.append(scope["state"]["visit"])
        await anyio.sleep_forever()

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        """Send to nobody."""

    policy = Policy(TokenFile(tmp_path), None, (), False, 0, 8, 600, 600)
    scope = {"type": "http", "method": "GET", "path": "/api/v1/evidence"}
    scope |= {"query_string": b"", "headers": [], "client": None}
    asyncio.run(Guard(app, policy, Connections(8, 8))(scope, receive, send))
    assert [visit.deadline.is_abandoned for visit in visits] == [True]


@contextmanager
def listening(most: int, per_client: int) -> Iterator[tuple[Listener, list[Any], ExitStack]]:
    """Yield a listener, the connections that it accepts, and a stack for those of clients."""
    accepted: list[Any] = []
    connections = Connections(most, per_client, [ip_network("127.0.0.9/32")])
    with closing(Listener("127.0.0.1", 0, connections)) as listener, ExitStack() as stack:
        yield listener, accepted, stack


def open_from(address: str, to: tuple[Listener, list[Any], ExitStack]) -> socket.socket:
    """Open a connection from an address of the loopback network, and accept it."""
    listener, accepted, stack = to
    client = socket.create_connection(listener.getsockname(), timeout=60, source_address=(address, 0))
    stack.enter_context(closing(client))
    try:
        accepted.append(stack.enter_context(closing(listener.accept()[0])))
    except ConnectionAbortedError:
        accepted.append(None)
    return client


def is_closed(client: socket.socket) -> bool:
    """Return True if the other side has closed the connection."""
    return bool(select.select([client], [], [], 0)[0])


def test_a_client_with_too_many_connections_loses_its_oldest() -> None:
    """Connections of others, and those whose request is being answered, stay."""
    with listening(most=8, per_client=2) as to:
        other = open_from("127.0.0.2", to)
        first, second = open_from("127.0.0.1", to), open_from("127.0.0.1", to)
        with to[0].connections.answering(first.getsockname()):
            third = open_from("127.0.0.1", to)
            assert [is_closed(one) for one in (other, first, second, third)] == [False, False, True, False]
            with to[0].connections.answering(third.getsockname()):
                assert is_closed(open_from("127.0.0.1", to))
            assert not is_closed(third)


def test_the_client_with_most_connections_makes_room() -> None:
    """When all together are too many, even an answer of the greediest is given up; a lone client stays."""
    with listening(most=4, per_client=3) as to:
        lone = open_from("127.0.0.2", to)
        greedy = [open_from("127.0.0.1", to) for _ in range(3)]
        with ExitStack() as answers:
            for client in (lone, *greedy):
                answers.enter_context(to[0].connections.answering(client.getsockname()))
            new = open_from("127.0.0.3", to)
        assert [is_closed(one) for one in (lone, new, *greedy)] == [False, False, True, False, False]


def test_connections_have_a_total_time() -> None:
    """When it is over, they are closed, whatever they do."""
    with listening(most=8, per_client=2) as to:
        client = open_from("127.0.0.1", to)
        to[0].connections.end_older(600)
        assert not is_closed(client)
        to[0].connections.end_older(0)
        assert is_closed(client)


def test_a_proxy_has_no_limit_of_its_own() -> None:
    """Its connections are those of many clients."""
    with listening(most=8, per_client=2) as to:
        assert not any(map(is_closed, [open_from("127.0.0.9", to) for _ in range(8)]))


def test_both_families_are_answered(directory: Path) -> None:
    """``[::]`` means IPv4 too, and the audit log has plain IPv4 addresses."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    TokenFile(evidence).create("ann", "read")
    with serving(evidence, listen="[::]:0") as running:
        port = running.client.base_url.port
        for host in ("127.0.0.1", "[::1]"):
            assert running.get(f"http://{host}:{port}{LOOKUP}").status_code == 401
    assert [line["client"] for line in running.audit()] == ["127.0.0.1", "::1"]
