"""`sensor doctor` on memory and disks: too small, too full, too slow, or read-only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from doctor_runs import Findings, by_check, doctor, levels
from live import SENSOR

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules", "network", "evidence")]


def test_too_little_memory() -> None:
    """Rings, histories and flows that do not fit into the available memory are an error."""
    code, found = doctor("mirror", "--ring-mib", "1024", "--flows", str(1 << 26))
    assert found["memory"]["what"].startswith(
        f"rings, histories and flows need {(1024 + 64) * (os.cpu_count() or 1) + 6656} MiB"
    )
    code, found = doctor("mirror", "--ring-mib", "1", "--flows", "1024")
    assert (code, found["memory"]["level"]) == (0, "ok")


def test_evidence_that_cannot_be_kept(tmp_path: Path) -> None:
    """A file in place of the directory is an error."""
    (tmp_path / "evidence").write_text("")
    code, found = doctor("mirror")
    assert (code, found["evidence"]["level"]) == (1, "error")
    assert "is not a directory" in found["evidence"]["what"]


def on_small_disk(tmp_path: Path, options: str, *arguments: str) -> Findings:
    """Return what the doctor finds if the evidence is on a file system of its own."""
    disk = tmp_path / "evidence"
    disk.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o {options} tmpfs {disk}"
    examine = " ".join([sys.executable, "-m", "sensor", "doctor", "--json", *arguments])
    command = f"{mount} && {examine}; ls -A {disk} >&2"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", command], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""  # nothing is left behind
    return by_check(json.loads(done.stdout)["findings"])


def test_a_full_disk(tmp_path: Path) -> None:
    """The trial of the disk fails if there is too little space for it."""
    found = on_small_disk(tmp_path, "size=16m", "--disk", "--retain-free-percent", "90")
    assert levels(found, "evidence", "disk", "speed") == ["ok", "ok", "error"]
    assert "No space left" in found["speed"]["what"]


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    """A read-only file system is an error even for root."""
    assert levels(on_small_disk(tmp_path, "ro"), "evidence") == ["error"]


def test_the_speed_of_the_disk(evidence: Path) -> None:
    """--disk measures it, and leaves nothing behind."""
    code, found = doctor("mirror", "--disk")
    assert code == 0
    assert "MB/s" in found["speed"]["what"]
    assert not evidence.exists()


def test_too_little_free_space(evidence: Path) -> None:
    """Less free space than retain_free_percent is a warning."""
    free = os.statvfs(evidence.parent)
    percent = 100 * free.f_bavail / free.f_blocks
    if percent > 89:
        pytest.skip("the disk is emptier than can be asked for")
    code, found = doctor("mirror", "--retain-free-percent", str(percent + 1))
    assert (code, found["disk"]["level"]) == (0, "warning")


def test_memory_that_may_not_be_locked() -> None:
    """With the four capabilities alone the limit counts; the finding agrees with the kernel.

    Without those for switching users, the processes share one.
    """
    capabilities = "-all,+bpf,+perfmon,+net_admin,+net_raw"
    few = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
    limited = ["prlimit", f"--memlock={4 << 20}", *few, *SENSOR]
    for ring_mib, level, code in (("64", "error", 5), ("1", "-", 0)):
        command = [*limited, "doctor", "mirror", "--ring-mib", ring_mib, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert levels(by_check(json.loads(done.stdout)["findings"]), "memlock", "privileges") == [
            level,
            "warning",
        ]
        command = [*limited, "run", "-i", "mirror", "--ring-mib", ring_mib, "--duration", "0.1", "--no-api"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == code
