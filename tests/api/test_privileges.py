"""The API runs unprivileged beside a writer that is root, and ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from api_samples import DEVID, NOON_US, environment, keep, piece, serving

from sensor.evidence.writer import EvidenceWriter

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root has to be given up")


def identity(pid: int) -> dict[str, str]:
    """Return what the kernel says about a process."""
    lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_root_is_given_up_for_good(directory: Path) -> None:
    """No user, group or capability of root is left, and none can be had again; only the evidence's group."""
    keep(directory / "evidence", [piece(0)])
    for path in [directory / "evidence", *(directory / "evidence").rglob("*")]:
        os.chown(path, -1, 12345)
    with serving(directory / "evidence") as running:
        status = identity(running.process.pid)
        assert running.get(f"/evidence?time={NOON_US}").json()[0]["sport"] == 40000
    assert "0" not in status["Uid"].split()
    assert "0" not in status["Gid"].split()
    assert status["Groups"] == "12345"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_evidence_is_found_while_it_is_written(directory: Path) -> None:
    """Behind a writer that is root: its open files, its index in the making, its death, its next start."""
    evidence = keep(directory / "evidence", [piece(0)])
    with serving(evidence, "--request-rate", "0") as running:

        def count() -> int:
            page = running.get("/api/v1/evidence?limit=500").json()
            for item in page["items"]:
                assert running.get(f"/api/v1/evidence/{item['key']}").status_code == 200
            return len(page["items"])

        assert count() == 1
        for start in (1, 11):
            with closing(EvidenceWriter(evidence, DEVID)) as writer:
                for number in range(start, start + 10):
                    writer.write([piece(number)])
                    writer.index.commit()
                    assert count() == number + 1
            assert count() == start + 10


def test_access_that_is_lost_is_said(directory: Path) -> None:
    """Nothing is said to be not there; once there is access again, it is found."""
    evidence = keep(directory / "evidence", [piece(0)])
    paths = (f"/evidence?time={NOON_US}", "/api/v1/evidence", "/api/v1/histogram")
    with serving(evidence) as running:
        mode = evidence.stat().st_mode
        evidence.chmod(0o700)
        for path in paths:
            response = running.get(path)
            assert response.status_code == 503, path
            assert "cannot be read: Permission denied" in response.json()["detail"]
        evidence.chmod(mode)
        assert [running.get(path).status_code for path in paths] == [200] * 3


def test_a_missing_group_is_explained(directory: Path) -> None:
    """Evidence that its group may not read: one line that says what to do."""
    keep(directory / "evidence", [piece(0)])
    (directory / "evidence").chmod(0o700)
    command = [sys.executable, "-m", "sensor", "serve", "--evidence", directory / "evidence"]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:0"], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 6
    assert "chmod g+rxs" in done.stderr.splitlines()[-1]
