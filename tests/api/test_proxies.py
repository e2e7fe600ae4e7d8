"""The API behind reverse proxies: nginx as docs/api.md configures it, and what proxies say about clients."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
from api_samples import NOON_US, evidence_item, keep, serving
from processes import wait_until

from sensor.api.client_address import client_address
from sensor.api.tokens import TokenFile

BLOCK = re.compile(r"```nginx\n(.*?)```", re.DOTALL)
API = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
LOOKUP = f"/evidence?time={NOON_US}"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextmanager
def nginx(directory: Path, port: int) -> Iterator[str]:
    """Run nginx with the server of the documentation before this port of the API; yield its address."""
    name = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"  # nobody else listens there
    [server] = BLOCK.findall(API)
    for documented, here in (
        ("listen 443 ssl;", f"listen {name}:8443;"),
        ("127.0.0.1:8321", f"127.0.0.1:{port}"),
        ("    ssl_certificate /etc/ssl/certs/sensor.example.pem;\n", ""),
        ("    ssl_certificate_key /etc/ssl/private/sensor.example.key;\n", ""),
    ):
        assert documented in server
        server = server.replace(documented, here)
    paths = "".join(f"{one}_temp_path {directory};\n" for one in TEMPORARY)
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{server}}}\n"
    )
    with subprocess.Popen(["nginx", "-p", directory, "-c", config], stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: process.poll() is not None or is_listening(name))
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield f"http://{name}:8443"
        finally:
            process.terminate()


def is_listening(name: str) -> bool:
    """Return True if something accepts connections there."""
    try:
        socket.create_connection((name, 8443)).close()
    except ConnectionRefusedError:
        return False
    return True


def client(base_url: str, address: str, token: str) -> httpx.Client:
    """Return a client that has this address, and lies about it."""
    headers = {"Host": "sensor.example", "Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.66"}
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(base_url=base_url, headers=headers, transport=transport, trust_env=False, timeout=60)


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_behind_nginx(directory: Path) -> None:
    """Its clients need tokens, have shares of their own, and are in the audit log with their addresses."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    token = TokenFile(evidence).create("ann", "read")
    flags = ["--api-hosts", "sensor.example", "--api-proxies", "127.0.0.1/32", "--request-rate", "1"]
    with serving(evidence, *flags) as running, nginx(directory, running.client.base_url.port or 0) as url:
        with client(url, "127.0.0.5", token) as ann:
            assert ann.get(LOOKUP).json()[0]["sport"] == 40_000
            assert ann.get(LOOKUP, headers={"Authorization": ""}).status_code == 401
            assert ann.get(LOOKUP, headers={"Host": "evil.example"}).status_code == 421
            while ann.get("/nothing").status_code != 429:
                pass
        with client(url, "127.0.0.6", token) as other:
            assert other.get(LOOKUP).status_code == 200
    lines = [(line["client"], line["who"], line["status"]) for line in running.audit()]
    assert lines[:3] == [("127.0.0.5", "ann", 200), ("127.0.0.5", None, 401), ("127.0.0.5", None, 421)]
    assert lines[-1] == ("127.0.0.6", "ann", 200)


def test_host_names_of_proxies_are_refused_until_they_are_set(directory: Path) -> None:
    """The answer names the setting; without a token, the setting is refused."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    with serving(evidence) as running:
        refused = running.get(LOOKUP, headers={"Host": "sensor.example"})
        assert refused.status_code == 421
        assert "api_hosts" in refused.json()["detail"]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via"])
def test_a_request_from_a_proxy_is_no_local_one(directory: Path, header: str) -> None:
    """Whoever it comes from needs a token, even if the proxy changes Host and is in no setting."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    with serving(evidence) as running:
        assert running.get(LOOKUP).status_code == 200
        assert running.get(LOOKUP, headers={header: "192.0.2.1"}).status_code == 401


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # not from a proxy
        ("::ffff:192.0.2.1", [], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # the first one is a lie
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7, 10.0.0.2"], "198.51.100.7"),  # two proxies
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [","], "10.0.0.1"),
    ],
)
def test_the_address_of_the_client(peer: str, forwarded: list[str], expected: str) -> None:
    """Only trusted proxies are believed."""
    assert client_address(peer, forwarded, [ip_network("10.0.0.0/8")]) == expected
