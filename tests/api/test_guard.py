"""Tests of the guard: authentication, rate limit, response headers, audit log."""

from __future__ import annotations

import json
import socket
import ssl
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from api_samples import NOON_US, Server, environment, evidence_item, keep, serving
from processes import wait_until

from sensor.api.app import create_app
from sensor.api.guard import is_data
from sensor.api.tokens import TokenFile
from sensor.config.settings import Settings

DATA = ("/evidence?time=1", "/api/v1/evidence", "/api/v1/status", "/api/v1/rules", "/api/v1/export.pcap")


def bearer(token: str) -> dict[str, str]:
    """Return the request header with a token."""
    return {"Authorization": f"Bearer {token}"}


def test_security_headers(server: Server) -> None:
    """Every response has the security headers: data, pages and errors."""
    for path in (*DATA, "/", "/openapi.json", "/nothing", "/api/v1/evidence?port=x"):
        headers = server.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    assert server.get("/api/v1/evidence").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", "", "[::2]"])
def test_foreign_host_name_is_refused_on_loopback(server: Server, host: str) -> None:
    """A web site whose name resolves to 127.0.0.1 gets no data (DNS rebinding)."""
    for path in (*DATA, "/"):
        assert server.get(path, headers={"Host": host}).status_code == 421
    for own in ("localhost", "localhost:8321", "127.0.0.1", "[::1]:8321"):
        assert server.get("/api/v1/status", headers={"Host": own}).status_code == 200


def test_another_site_cannot_fetch(server: Server) -> None:
    """Requests from another site's page are refused; a link the user follows is not."""
    fetch = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    statuses = [server.get("/api/v1/evidence", headers=headers).status_code for headers in (fetch, link, own)]
    assert statuses == [403, 200, 200]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(server: Server, method: str) -> None:
    """Every method except GET is refused."""
    for path in ("/evidence", "/api/v1/evidence", "/api/v1/tokens"):
        response = server.client.request(method, path, content=b"x" * 1000)
        assert response.status_code == 405
        assert response.headers["content-type"] == "application/problem+json"


def test_all_data_is_guarded() -> None:
    """Every path in the OpenAPI document is guarded, so that a new one cannot be forgotten."""
    paths = create_app(Settings()).openapi()["paths"]
    assert len(paths) > 8
    assert all(is_data({"path": path}) for path in paths)


def test_tokens(directory: Path) -> None:
    """Creating and revoking a token applies from the next request on."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    tokens = TokenFile(evidence)
    reader, admin = tokens.create("page", "read"), tokens.create("chief", "admin")
    with serving(evidence, "--token-required") as running:
        for path in DATA:
            refused = running.get(path)
            assert (refused.status_code, refused.json()["status"]) == (401, 401)
            assert refused.headers["www-authenticate"].startswith("Bearer")
            assert running.get(path, headers=bearer(reader[:-1] + "!")).status_code == 401
            assert running.get(path, headers=bearer(reader)).status_code == 200
        assert running.get("/").status_code != 401
        assert running.get("/api/v1/tokens", headers=bearer(reader)).status_code == 403
        listed = running.get("/api/v1/tokens", headers=bearer(admin)).json()
        assert [(token["name"], token["role"]) for token in listed] == [("page", "read"), ("chief", "admin")]
        assert set(listed[0]) == {"name", "role", "created_us"}
        tokens.revoke("page")
        assert running.get("/api/v1/status", headers=bearer(reader)).status_code == 401
        assert running.get("/api/v1/status", headers=bearer(admin)).status_code == 200
        tokens.path.write_text("garbage")
        assert running.get("/api/v1/status", headers=bearer(admin)).status_code == 401
    assert reader not in running.log.read_text()


def test_audit(directory: Path) -> None:
    """Each access and each refusal becomes a line in the audit file."""
    evidence = keep(directory / "evidence", [evidence_item(number) for number in range(3)])
    token = TokenFile(evidence).create("ann", "read")
    with serving(evidence, "--token-required", "--audit", directory / "audit.jsonl") as running:
        running.get(f"/evidence?time={NOON_US}", headers=bearer(token))
        running.get("/api/v1/evidence?text=%0aGET", headers=bearer(token))
        running.get("/api/v1/export.pcapng", headers=bearer(token))
        running.get("/api/v1/evidence")
        running.get("/api/v1/status", headers=bearer(token))
    lines = [json.loads(line) for line in (directory / "audit.jsonl").read_text().splitlines()]
    assert [(line["who"], line["path"], line["status"], line["pieces"]) for line in lines] == [
        ("ann", "/evidence", 200, 1),
        ("ann", "/api/v1/evidence", 200, 0),
        ("ann", "/api/v1/export.pcapng", 200, 3),
        (None, "/api/v1/evidence", 401, 0),
    ]
    assert [line["query"] for line in lines][:2] == [f"time={NOON_US}", "text=%0aGET"]
    assert all(line["client"] == "127.0.0.1" and line["bytes"] > 0 for line in lines)
    assert {"truncated": False, "query": ""}.items() <= lines[2].items()


def test_an_audit_file_that_is_removed(directory: Path) -> None:
    """The audit goes on in a new file, and the log says so; if there can be none, it goes on in the log."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    audit = directory / "audit" / "audit.jsonl"
    audit.parent.mkdir()
    with serving(evidence, "--audit", audit) as running:
        ask = lambda text: running.get(f"/api/v1/evidence?text={text}")  # noqa: E731
        ask("one")
        wait_until(lambda: "text=one" in audit.read_text())
        audit.unlink()
        ask("two")
        ask("three")
        wait_until(lambda: "text=three" in audit.read_text())
        lines = [json.loads(line)["query"] for line in audit.read_text().splitlines()]
        assert lines == ["text=two", "text=three"]
        assert stat.S_IMODE(audit.stat().st_mode) & 0o137 == 0
        audit.unlink()
        audit.symlink_to(directory / "elsewhere")
        ask("four")
        wait_until(lambda: "text=four" in running.log.read_text())
        audit.unlink()
        ask("five")
        wait_until(audit.exists)
        wait_until(lambda: "text=five" in audit.read_text())
        assert [json.loads(line)["query"] for line in audit.read_text().splitlines()] == ["text=five"]
    log = running.log.read_text()
    assert log.count("was removed; it goes on in a new file") == 2
    assert log.count("cannot be created again") == 1
    assert [line["query"] for line in running.audit()] == ["text=four"]
    assert not (directory / "elsewhere").exists()


def test_too_many_requests_are_refused(directory: Path) -> None:
    """Requests above the rate are answered 429, the others normally."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    with serving(evidence, "--request-rate", "5") as running:
        statuses = [running.get("/nothing").status_code for _ in range(60)]
        assert statuses[:10] == [404] * 10
        assert 429 in statuses
        assert set(statuses) == {404, 429}


def test_idle_connection_is_closed(server: Server) -> None:
    """A connection with half a request is closed."""
    address = (server.client.base_url.host, server.client.base_url.port)
    with closing(socket.create_connection(address, timeout=60)) as connection:
        connection.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: local")
        assert connection.recv(100) == b""


@pytest.fixture
def certificates(directory: Path) -> Path:
    """Return a directory with an authority, a server certificate for 127.0.0.1, and a client's for "ann"."""
    for name, options in (
        ("ca", ["-x509", "-subj", "/CN=authority"]),
        ("server", ["-x509", "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", "/CN=sensor",
                    "-addext", "subjectAltName=IP:127.0.0.1"]),
        ("ann", ["-x509", "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", "/CN=ann"]),
    ):  # fmt: skip
        command = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
        files = ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2"]
        subprocess.run([*command, *files, *options], check=True, cwd=directory, capture_output=True)
    return directory


def trust(certificates: Path, client: str | None = None) -> ssl.SSLContext:
    """Return a context that trusts the authority, with a client certificate if ``client`` is given."""
    context = ssl.create_default_context(cafile=certificates / "ca.crt")
    if client:
        context.load_cert_chain(certificates / f"{client}.crt", certificates / f"{client}.key")
    return context


def test_client_certificates(certificates: Path) -> None:
    """A client with a certificate needs no token; one without gets no answer."""
    evidence = keep(certificates / "evidence", [evidence_item(0)])
    files = {"--tls-cert": "server.crt", "--tls-key": "server.key", "--tls-client-ca": "ca.crt"}
    flags = [part for flag, name in files.items() for part in (flag, certificates / name)]
    with serving(evidence, *flags, verify=trust(certificates, "ann")) as running:
        assert running.get(f"/evidence?time={NOON_US}").json()[0]["time_sec"] == NOON_US // 1_000_000
        with pytest.raises(httpx.HTTPError):
            httpx.get(
                running.client.base_url.join("/api/v1/status"), verify=trust(certificates), trust_env=False
            )
        # Only root can read the key: the server reads it before it drops privileges.
        assert (certificates / "server.key").stat().st_mode & 0o077 == 0
    assert [line["who"] for line in running.audit()] == ["certificate ann"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--listen", "0.0.0.0:0"], 2, "listen: 0.0.0.0:0 needs a token"),
        (["--listen", "[::]:0"], 2, "listen: [::]:0 needs a token"),
        (["--token-required"], 2, "needs a token"),
        (["--listen", "everywhere"], 2, "listen: must be an address and a port"),
        (["--listen", "127.0.0.1:0", "--tls-cert", "x"], 2, "tls_cert and tls_key: set both"),
        (
            ["--listen", "127.0.0.1:0", "--tls-cert", "/x", "--tls-key", "/x"],
            2,
            "tls_cert: /x: cannot be read",
        ),
        (["--listen", "127.0.0.1:0", "--api-user", "root"], 2, "the API does not run as root"),
        (["--listen", "127.0.0.1:0", "--api-user", "no-one-here"], 2, "there is no user 'no-one-here'"),
        (
            ["--listen", "127.0.0.1:0", "--audit", "/nowhere/audit"],
            2,
            "audit: /nowhere/audit: cannot be written",
        ),
        (["--listen", "192.0.2.1:1", "--evidence", "nowhere"], 6, "nowhere: there is no such directory"),
        (["--listen", "127.0.0.1:{taken}"], 1, "Address already in use; choose another --listen"),
    ],
)
def test_wrong_settings_are_reported(directory: Path, flags: list[str], code: int, message: str) -> None:
    """A wrong setting ends the server with one line and an exit code before it listens."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "sensor", "serve", "--evidence", evidence]
        command += [flag.format(taken=port) for flag in flags]
        done = subprocess.run(command, cwd=directory, env=environment(), capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr.splitlines()[-1]
