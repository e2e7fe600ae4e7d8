"""``python -m bench.peers`` compares programs, and lists those it could not measure."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.peers.__main__ import table
from bench.peers.programs import NOT_MEASURED, PEERS

ROOT = Path(__file__).parents[2]
SHORT = ("--frames", "2000", "--seconds", "0.1", "--halvings", "3")

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a PATH on which tcpdump works, and these programs cannot run, whatever this machine has."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for name, script in {
        "dumpcap": "#!/bin/sh\necho no such library >&2; exit 127\n",
        "lyprobe": "#!/nowhere/interpreter\n",
        "suricata": "#!/bin/sh\necho Engine started\n",
    }.items():
        (broken / name).write_text(script)
        (broken / name).chmod(0o755)
    return f"{broken}:/usr/sbin:/usr/bin:/sbin:/bin"


def test_each_program_has_its_figures(tmp_path: Path, path: str) -> None:
    """Without loss, sensor keeps exactly the frames that hold a string; what cannot run is listed."""
    command = [sys.executable, "-m", "bench.peers", *SHORT, "--json"]
    environment = {"PATH": path, "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("sensor-peers-*"))
    programs = json.loads(done.stdout)["programs"]
    assert set(programs) == {peer.binary for peer in PEERS} | set(NOT_MEASURED)
    assert {name: found.get("not_measured") for name, found in programs.items() if name != "ngrep"} == {
        "sensor": None,
        "tcpdump": None,
        "dumpcap": "did not start: no such library",
        "suricata": "ended with exit code 0",
        "lyprobe": "not available",
    }
    sensor = programs["sensor"]
    best = sensor["zero_loss"]
    assert best["kept"] == best["expected"] == 20 * -(-best["sent"] // 2000)
    assert 0 < best["cpu_us_per_frame"] < best["machine_us_per_frame"]
    assert best["memory_mib"] > 10
    assert best["offered_pps"] == max(
        trial["offered_pps"] for trial in sensor["trials"] if trial["kept"] == trial["expected"]
    )
    shown = Console(width=80, file=StringIO())
    shown.print(table(programs))
    for name in programs:
        assert re.search(
            rf"│ {name} +│ ((> )?[\d,]+/s|not measured|always loses) +│", shown.file.getvalue()
        ), name
