"""A short soak: `sensor run` while everything around it goes wrong. `make soak` runs a long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.faults import NAMES
from tests.soak.site import ROOT

SECONDS = 40


@pytest.mark.kernel
def test_soak(few_rules: Path, tmp_path: Path) -> None:
    """After each fault at least once, the counters add up and the evidence is whole."""
    chosen = [name for name in NAMES if name != "cpu_offline"]  # it would disturb the tests beside this one
    command = [sys.executable, "-m", "tests.soak", *chosen, "--seconds", str(SECONDS), "--rest", "2"]
    command += ["--seed", "1", "--rules", str(few_rules), "--disk-mib", "200"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f" {name}\n" in done.stdout for name in chosen)
