"""The documents say what is: every command runs, every setting is listed with its default."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.traffic import mix
from bench.traffic.frames import write_capture
from sensor.capture.lab import veth_pair
from sensor.config import Settings
from sensor.errors import SensorError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OTHERWISE_RUN = ("make demo", "make test")  # by test_demo.py, and by whoever runs this


def commands() -> list[str]:
    """Every command in a shell block, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and line not in OTHERWISE_RUN]


@pytest.mark.kernel
@pytest.mark.usefixtures("network", "use_few_rules")
@pytest.mark.parametrize("command", commands())
def test_commands_of_the_readme_run(tmp_path: Path, command: str) -> None:
    """Each works as it stands, on a host with these interfaces and files."""
    for left, right in (("eth1", "peer1"), ("eth2", "peer2")):
        veth_pair(left, right)
    frames = mix.demo(seed=1).frames
    write_capture(tmp_path / "capture.pcap", frames)
    subprocess.run(["tshark", "-r", "capture.pcap", "-w", "capture.pcapng"], check=True, cwd=tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SENSOR_DURATION": "0.2",
        "SENSOR_EVIDENCE": str(tmp_path / "evidence"),
    }
    subprocess.run(command.split(), check=True, cwd=tmp_path, env=environment)


def test_the_table_lists_every_setting() -> None:
    """Name and default of each setting, and no other."""
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+) \|", README, re.MULTILINE))
    shown = {name: value.strip("`") for name, value in rows.items()}
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    expected = {name: str(value).lower() for name, value in defaults.items()}
    expected |= {"interface": "none", "duration": "none", "rules": "our own"}
    assert shown == expected


def test_exit_codes_are_listed() -> None:
    """Each code of the exception tree."""
    codes = {error.exit_code for error in [SensorError, *SensorError.__subclasses__()]}
    [line] = [line for line in README.splitlines() if line.startswith("Exit codes:")]
    assert {int(code) for code in re.findall(r"\d", line)} == codes | {0}
