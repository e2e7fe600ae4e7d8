"""Tests of holds over HTTP: with the token of an administrator, evidence is kept from every limit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from api_samples import DEVID, NOON_US, Server, environment, evidence_item, keep, serving
from processes import wait_until

from sensor.api.hold_keeper import HoldKeeper, HoldRefusedError, HoldRequest
from sensor.api.tokens import TokenFile
from sensor.evidence.clock_trust import ClockReading
from sensor.evidence.holds import JOURNAL
from sensor.evidence.retention import Limits, Retention
from tests.sandboxed import status_of

WINDOW_US = 300_000_000


@pytest.fixture
def evidence(directory: Path) -> Path:
    """Return a directory with two files, each with one item."""
    items = [evidence_item(number, NOON_US + number * WINDOW_US) for number in range(2)]
    return keep(directory / "evidence", items)


def bearer(token: str) -> dict[str, dict[str, str]]:
    """Return the option of a request with a token."""
    return {"headers": {"Authorization": f"Bearer {token}"}}


def keeper_of(server: Server) -> psutil.Process:
    """Return the process that writes holds."""
    [found] = [one for one in psutil.Process(server.process.pid).children() if one.name() == "sensor-hold"]
    return found


def entries(evidence: Path) -> list[dict[str, Any]]:
    """Return the lines of the journal; none if there is no journal."""
    journal = evidence / str(DEVID) / JOURNAL
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def delete_what_may_go(evidence: Path) -> list[str]:
    """Enforce limits that no evidence meets; return the names of the files that are left."""
    retention = Retention(evidence / str(DEVID), Limits(1, 1e-12, 100.0, 1, 1e-12), len)
    later_s = NOON_US / 1e6 + 1e7
    retention.enforce(ClockReading(later_s, later_s, is_synchronised=True))
    return sorted(path.name for path in (evidence / str(DEVID)).glob("*.pcap"))


def test_hold_and_release(evidence: Path) -> None:
    """Held files survive every limit until they are released; journal and audit log say who did it."""
    admin = bearer(TokenFile(evidence).create("chief", "admin"))
    query = {"until_us": NOON_US + WINDOW_US, "reason": " case 17 "}
    with serving(evidence) as running:
        made = running.client.post("/api/v1/holds", params=query, **admin)
        assert made.status_code == 201, made.text
        hold = made.json()
        assert (hold["by"], hold["reason"], hold["deleted"]) == ("token chief", "case 17", [])
        assert hold["devices"] == [{"devid": DEVID, "files": 1}]
        assert delete_what_may_go(evidence) == ["202306181200.pcap"]
        answer = running.get("/api/v1/holds").json()
        assert [one["hold"] for one in answer["holds"]] == [hold["hold"]]
        assert answer["may_change"] is False
        assert running.get("/api/v1/holds", **admin).json()["may_change"] is True
        address = f"/api/v1/holds/{hold['hold']}"
        done = running.client.delete(address, params={"reason": "closed"}, **admin)
        assert (done.status_code, done.json()["hold"]) == (200, hold["hold"])
        assert running.client.delete(address, params={"reason": "closed"}, **admin).status_code == 404
        assert running.get("/api/v1/holds").json()["holds"] == []
        assert delete_what_may_go(evidence) == []
    assert [(one["action"], one["by"], one["reason"]) for one in entries(evidence)] == [
        ("hold", "token chief", "case 17"),
        ("release", "token chief", "closed"),
    ]
    changes = [line for line in running.audit() if line["path"].startswith("/api/v1/holds")]
    assert [(line["who"], line["method"], line["status"]) for line in changes] == [
        ("chief", "POST", 201),
        ("chief", "DELETE", 200),
        ("chief", "DELETE", 404),
    ]
    assert "reason=+case+17+" in changes[0]["query"].replace("%20", "+")


def test_who_may_not(evidence: Path) -> None:
    """Without a token of an administrator, nothing is held or released, and the audit log says who tried."""
    reader = bearer(TokenFile(evidence).create("ann", "read"))
    with serving(evidence) as running:
        for options in ({}, reader):
            made = running.client.post("/api/v1/holds", params={"reason": "x"}, **options)
            gone = running.client.delete("/api/v1/holds/20260101-abcdef", params={"reason": "x"}, **options)
            assert (made.status_code, gone.status_code) == (403, 403)
        site = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert running.client.post("/api/v1/holds?reason=x", headers=site).status_code == 403
        assert running.get("/api/v1/holds").json() == {"holds": [], "may_change": False}
    assert entries(evidence) == []
    assert [line["who"] for line in running.audit()] == ["local", "local", "ann", "ann", None]


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ({"port": 1, "reason": "x"}, 404, "nothing is held"),
        ({}, 422, "reason"),
        ({"reason": "  "}, 422, "reason"),
        ({"reason": "x" * 501}, 422, "reason"),
        ({"reason": "x", "limit": 1}, 422, "limit: no such parameter"),
    ],
)
def test_faults(evidence: Path, query: dict[str, Any], status: int, detail: str) -> None:
    """Nothing is held by mistake."""
    admin = bearer(TokenFile(evidence).create("chief", "admin"))
    with serving(evidence) as running:
        answer = running.client.post("/api/v1/holds", params=query, **admin)
        assert answer.status_code == status
        assert detail in answer.json()["detail"]
    assert entries(evidence) == []


@pytest.mark.parametrize(
    ("token", "file", "refusal"),
    [("reader", "202306181200.pcap", "role admin"), ("admin", "../../x", "malformed")],
)
def test_an_api_that_was_taken_over(evidence: Path, token: str, file: str, refusal: str) -> None:
    """The process that writes checks the token and the names itself."""
    tokens = TokenFile(evidence)
    texts = {"reader": tokens.create("ann", "read"), "admin": tokens.create("chief", "admin")}
    with closing(HoldKeeper.fork(evidence)) as keeper, pytest.raises(HoldRefusedError, match=refusal):
        keeper.write(
            HoldRequest.model_construct(
                token=texts[token],
                action="hold",
                hold="20260101-abcdef",
                reason="x",
                query="",
                files={DEVID: (file,)},
            )
        )
    assert entries(evidence) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root privileges to drop")
def test_rights_of_the_process_that_writes(evidence: Path) -> None:
    """The API cannot write the journal; the process that does can do nothing else, and ends with the API."""
    with serving(evidence) as running:
        keeper = keeper_of(running)
        wait_until(lambda: status_of(keeper.pid)["Seccomp"] == "2")
        status, api = status_of(keeper.pid), status_of(running.process.pid)
        assert api["Uid"].split()[1] != "0"
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Inh", "Bnd", "Amb")} == {0}
        assert status["NoNewPrivs"] == "1"
        descriptors = [link.readlink().name for link in Path(f"/proc/{keeper.pid}/fd").iterdir()]
        assert sum(name.startswith("socket:") for name in descriptors) == 1
        running.process.kill()
        running.process.wait()
        keeper.wait(20)
        running.process.returncode = 0  # `serving` expects no other


def test_the_process_that_writes_is_gone(evidence: Path) -> None:
    """Evidence is served on, and the answer says what to do."""
    admin = bearer(TokenFile(evidence).create("chief", "admin"))
    with serving(evidence) as running:
        keeper_of(running).kill()
        made = running.client.post("/api/v1/holds?reason=x", **admin)
        assert (made.status_code, "sensor evidence hold" in made.json()["detail"]) == (503, True)
        assert running.get("/api/v1/evidence").status_code == 200


def test_a_device_that_is_new(evidence: Path) -> None:
    """Evidence of a device is held that had none when the API was started."""
    admin = bearer(TokenFile(evidence).create("chief", "admin"))
    with serving(evidence) as running:
        keep(evidence, [evidence_item(0)], devid=9)
        made = running.client.post("/api/v1/holds", params={"reason": "x", "devid": 9}, **admin)
        assert (made.status_code, made.json()["devices"]) == (201, [{"devid": 9, "files": 1}])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start it as another user")
def test_a_user_who_does_not_own_the_evidence(evidence: Path) -> None:
    """The API of a user who may only read serves it, holds nothing, and says what to do."""
    admin = bearer(TokenFile(evidence).create("chief", "admin"))
    reader = ("setpriv", "--reuid=12346", "--regid=12346", f"--groups={evidence.stat().st_gid}")
    with serving(evidence, before=(*reader, "--inh-caps=-all")) as running:
        made = running.client.post("/api/v1/holds?reason=x", **admin)
        assert (made.status_code, "sensor evidence hold" in made.json()["detail"]) == (503, True)
        assert running.get("/api/v1/holds", **admin).json() == {"holds": [], "may_change": False}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start it as another user")
def test_a_service_of_the_owner(evidence: Path, directory: Path) -> None:
    """The API of a user who may only read holds evidence through a socket, as systemd provides it."""
    admin = bearer(TokenFile(evidence).create("chief", "admin"))
    path = directory / "hold.sock"
    reader = ("setpriv", "--reuid=12346", "--regid=12346", f"--groups={evidence.stat().st_gid}")
    command = [sys.executable, "-m", "sensor", "evidence", "keep-holds", "--evidence", evidence]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        with serving(evidence, "--hold-socket", path, before=(*reader, "--inh-caps=-all")) as running:
            connection, _ = listener.accept()
            keeper = subprocess.Popen(command, stdin=connection, env=environment())
            connection.close()
            assert running.get("/api/v1/holds", **admin).json()["may_change"] is True
            made = running.client.post("/api/v1/holds?reason=x", **admin)
            assert made.status_code == 201, made.text
            assert (made.json()["by"], made.json()["devices"][0]["files"]) == ("token chief", 2)
    assert keeper.wait(20) == 0


def test_a_service_that_is_not_there(evidence: Path, directory: Path) -> None:
    """Evidence is served, nothing is held, and the log names the setting."""
    admin = bearer(TokenFile(evidence).create("chief", "admin"))
    with serving(evidence, "--hold-socket", directory / "nothing.sock") as running:
        assert running.client.post("/api/v1/holds?reason=x", **admin).status_code == 503
    assert "hold_socket: " in running.log.read_text()


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_journal_that_is_none(evidence: Path, directory: Path, kind: str) -> None:
    """The API starts, nothing is written through a link, and no request waits."""
    admin = bearer(TokenFile(evidence).create("chief", "admin"))
    journal = evidence / str(DEVID) / JOURNAL
    (directory / "elsewhere").touch()
    journal.unlink(missing_ok=True)
    if kind == "link":
        journal.symlink_to(directory / "elsewhere")
    else:
        os.mkfifo(journal)
    with serving(evidence) as running:
        assert running.client.post("/api/v1/holds?reason=x", **admin).status_code == 503
        assert running.get("/api/v1/holds").status_code == 503
        assert running.get("/api/v1/evidence").status_code == 200
    assert (directory / "elsewhere").read_bytes() == b""
