"""``python -m bench.peers``: programs side by side, and none passed over in silence."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peers.programs import NOT_MEASURED, PEERS

ROOT = Path(__file__).parents[2]
SHORT = ("--frames", "2000", "--seconds", "0.1", "--halvings", "3")

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]


def peers(directory: Path, *flags: str) -> str:
    """What it prints."""
    command = [sys.executable, "-m", "bench.peers", *SHORT, *flags]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(directory), "HOME": str(directory)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(directory.glob("sensor-peers-*"))
    return done.stdout


def test_what_each_keeps_and_costs(tmp_path: Path) -> None:
    """Where nothing is lost, sensor has kept exactly what holds a string; who is missing is named."""
    programs = json.loads(peers(tmp_path, "--json"))["programs"]
    assert set(programs) == {peer.binary for peer in PEERS} | set(NOT_MEASURED)
    for name, found in programs.items():
        is_there = name == "sensor" or shutil.which(name)
        assert ("not_measured" in found) != bool(is_there), name
    sensor = programs["sensor"]
    best = sensor["zero_loss"]
    assert best["kept"] == best["expected"] == 20 * -(-best["sent"] // 2000)
    assert 0 < best["cpu_us_per_frame"] < best["machine_us_per_frame"]
    assert best["memory_mib"] > 10
    assert best["offered_pps"] == max(
        trial["offered_pps"] for trial in sensor["trials"] if trial["kept"] == trial["expected"]
    )


def test_the_table_has_them_all(tmp_path: Path) -> None:
    """With the rate, or that it was not measured."""
    table = peers(tmp_path, "--halvings", "1")
    for name in [*NOT_MEASURED, *(peer.binary for peer in PEERS)]:
        assert re.search(rf"│ {name} +│ ((> )?[\d,]+/s|not measured|always loses) +│", table), table
