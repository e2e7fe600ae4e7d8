"""The demo ends by itself, reports errors, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from processes import in_network, in_session, wait_until

from bench import demo, outcome
from sensor.bench.traffic.conversations import Expected
from sensor.config.settings import BUNDLED_RULES
from sensor.counters import Counters
from sensor.evidence.pcap import file_header

REPOSITORY = Path(__file__).parent.parent
TIMEOUT_S = 60
ONE_RULE = {"threat": {"rules": {"1": {"type": "mining", "name": "Stratum", "regex": "mining.subscribe"}}}}
EXPECTED = Expected(
    "Log4Shell", "threat", 1, "TCP", "203.0.113.9", 4000, "192.0.2.1", 80, 30, 40, "${jndi:ldap"
)
FOUND = {
    "class": "threat",
    "protocol": "TCP",
    "sip": "203.0.113.9",
    "sport": 4000,
    "dip": "192.0.2.1",
    "dport": 80,
    "start": 32,
    "end": 36,
}


@contextmanager
def running_demo(directory: Path, rules: Path = BUNDLED_RULES) -> Iterator[subprocess.Popen[str]]:
    """Start the demo in a session of its own, which identifies its processes."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.demo"],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(directory), "SENSOR_RULES": str(rules)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        yield process


@pytest.mark.kernel
def test_the_demo_finds_every_attack(tmp_path: Path) -> None:
    """It exits with 0, and tcpdump reads evidence from the file it names."""
    with running_demo(tmp_path) as process:
        output = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 0, output
    [path] = re.findall(r"^evidence (\S+-threat\.pcap)$", output, re.MULTILINE)
    listing = subprocess.run(["tcpdump", "-A", "-r", path], check=True, capture_output=True).stdout
    assert b"${jndi:ldap://" in listing
    assert not in_session(process.pid)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("generated", signal.SIGINT),
        ("starting", signal.SIGINT),
        ("replaying", signal.SIGINT),
        ("stopping", signal.SIGINT),
        ("starting", signal.SIGTERM),
        ("replaying", signal.SIGTERM),
        ("starting", signal.SIGKILL),
        ("replaying", signal.SIGKILL),
    ],
)
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    """Whenever and however it is stopped, no process, namespace or interface of it remains."""
    (tmp_path / "threat.json").write_text(json.dumps(ONE_RULE))
    with running_demo(tmp_path, rules=tmp_path) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if phase in line), None)
        assert line, f"the demo ended before it printed {phase!r}"
        network = Path(f"/proc/{process.pid}/ns/net").readlink()
        process.send_signal(number)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    wait_until(lambda: not in_session(process.pid))
    if network != Path("/proc/self/ns/net").readlink():
        assert not in_network(network)
    assert not {demo.MIRROR, demo.SOURCE} & {path.name for path in Path("/sys/class/net").iterdir()}


def test_a_match_must_be_at_the_expected_place() -> None:
    """A match counts only with the right class, hosts and bytes."""
    assert list(outcome.missing([EXPECTED], [FOUND])) == []
    for wrong in ({"class": "os"}, {"sip": "203.0.113.8"}, {"sport": 4001}, {"start": 40, "end": 41}):
        assert list(outcome.missing([EXPECTED], [FOUND | wrong])) != []
    assert list(outcome.missing([EXPECTED], [])) == ["not found: Log4Shell, 203.0.113.9:4000 > 192.0.2.1:80"]


def test_counters_that_do_not_add_up_are_reported(tmp_path: Path) -> None:
    """Every line of the law is checked, and also the frames sent and the records in the files."""
    path = tmp_path / "202601051000.pcap"
    path.write_bytes(file_header(linktype=1) + (b"\0" * 8 + b"\x01\0\0\0" * 2 + b"x") * 2)
    good = Counters(
        seen=9, ignored={"port": 3, "not_ip": 1}, submitted=5, read=5, unmatched=3, matched=2, written=2
    )
    assert list(outcome.wrong_sums(good, 9, [path])) == []
    assert list(outcome.wrong_sums(good, 10, [path])) == ["10 frames were sent, but 9 were seen"]
    assert list(outcome.wrong_sums(good, 9, [])) == ["2 frames were written, but the files hold 0"]
    for field, value in (("submit_failed", 1), ("in_ring", 1), ("undecodable", 1), ("suppressed", 1)):
        assert list(outcome.wrong_sums(replace(good, **{field: value}), 9, [path])) != []
