"""``python -m bench.peers``: programs side by side, and none passed over in silence."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peers import NOT_MEASURED, PEERS

ROOT = Path(__file__).parents[2]


@pytest.mark.kernel
@pytest.mark.timeout(300)
def test_every_program_is_in_the_table(tmp_path: Path) -> None:
    """At a pace that is no trouble, sensor keeps exactly what holds a string; who is missing is named."""
    command = [sys.executable, "-m", "bench.peers", "--frames", "2000", "--pps", "2000"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"│ (\w+) +│ (.+?) *│\n", done.stdout))
    for name in [peer.binary for peer in PEERS] + list(NOT_MEASURED):
        is_there = name == "sensor" or shutil.which(name)
        assert ("not measured" in rows[name]) != bool(is_there), rows
    _, kept, expected, cost = re.split(r" *│ *", rows["sensor"])
    assert kept == expected == "20"
    assert float(cost) > 0
    assert not list(tmp_path.glob("sensor-peers-*"))
