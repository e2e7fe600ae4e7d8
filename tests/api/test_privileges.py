"""Tests of the API without privileges, beside a writer that runs as root."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from api_samples import DEVID, NOON_US, environment, evidence_item, keep, serving

from sensor.evidence.block import block_of_objects
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.process.accounts import ProcessRole, identity_of

API_GROUP = identity_of(ProcessRole.API).gid

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root privileges to drop")


def identity(pid: int) -> dict[str, str]:
    """Return the fields of a process' status in /proc."""
    lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_root_is_dropped_for_good(directory: Path) -> None:
    """No user, group or capability of root remains, only the group of the evidence."""
    keep(directory / "evidence", [evidence_item(0)])
    for path in [directory / "evidence", *(directory / "evidence").rglob("*")]:
        os.chown(path, -1, 12345)
    with serving(directory / "evidence") as running:
        status = identity(running.process.pid)
        assert running.get(f"/evidence?time={NOON_US}").json()[0]["sport"] == 40000
    assert "0" not in status["Uid"].split()
    assert "0" not in status["Gid"].split()
    assert status["Groups"].split() == ["12345", str(API_GROUP)]
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_no_group_of_root_is_kept(directory: Path) -> None:
    """Evidence that root keeps by hand, in a directory it made, has a group that can do nothing else."""
    (directory / "evidence").mkdir(mode=0o700)
    keep(directory / "evidence", [evidence_item(0)])
    (directory / "evidence").chmod(0o2750)
    with serving(directory / "evidence") as running:
        assert identity(running.process.pid)["Groups"] == str(API_GROUP)
        assert running.get(f"/evidence?time={NOON_US}").json()[0]["sport"] == 40000
    assert {path.stat().st_gid for path in (directory / "evidence").rglob("*")} == {API_GROUP}


def test_a_directory_of_the_group_root_is_refused(directory: Path) -> None:
    """One line says how to give it another group; directories with something in them are left as they are."""
    (directory / "evidence").mkdir(mode=0o750)
    (directory / "evidence" / "notes").touch()
    keep(directory / "evidence", [evidence_item(0)])
    command = [sys.executable, "-m", "sensor", "serve", "--evidence", directory / "evidence"]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:0"], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 6
    assert f"chgrp -R GROUP {directory}/evidence; chmod -R g+rX" in done.stderr.splitlines()[-1]


def test_evidence_is_found_while_it_is_written(directory: Path) -> None:
    """Evidence is found while a writer that runs as root adds it, and after the writer restarts."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
    with serving(evidence, "--request-rate", "0") as running:

        def count() -> int:
            page = running.get("/api/v1/evidence?limit=500").json()
            for item in page["items"]:
                assert running.get(f"/api/v1/evidence/{item['key']}").status_code == 200
            return len(page["items"])

        assert count() == 1
        for start in (1, 11):
            with closing(IndexedWriter(evidence, DEVID)) as writer:
                for number in range(start, start + 10):
                    writer.write(block_of_objects([evidence_item(number)]))
                    writer.index.commit()
                    assert count() == number + 1
            assert count() == start + 10


def test_lost_access_is_503(directory: Path) -> None:
    """Without read permission the answer is 503; with permission again it is 200."""
    evidence = keep(directory / "evidence", [evidence_item(0)])
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
    """If the group may not read the evidence, one line says what to do."""
    keep(directory / "evidence", [evidence_item(0)])
    (directory / "evidence").chmod(0o700)
    command = [sys.executable, "-m", "sensor", "serve", "--evidence", directory / "evidence"]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:0"], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 6
    assert "chmod g+rxs" in done.stderr.splitlines()[-1]
