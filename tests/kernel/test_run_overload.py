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

from sensor.bench.flood_payloads import payload_with_matches
from sensor.bench.traffic import mix
from sensor.config.settings import BUNDLED_RULES
from sensor.metrics import catalogue as c
from sensor.metrics.figures import Figures
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_rules

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules", "slowed", "without_context")]

ATTACKER = "10.66.66.66"
ROUNDS = 5
"""Times that the office's traffic is sent."""
ATTACKS, SECONDS = 16_000, 8
PORTS = 10_000
RING = ("--ring-mib", "1")
LARGER_RING = ("--ring-mib", "8")
"""Enough for the time in which the costs of a new source are not known yet."""
MANY_HITS = Path(__file__).parents[3] / "shared" / "cases" / "costly_hits.bin"


@pytest.fixture
def slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sensor take its time for the attacker's packets."""
    program = Path(__file__).with_name("overloaded_sensor.py")
    monkeypatch.setattr(live, "SENSOR", [sys.executable, str(program)])


@pytest.fixture
def office() -> list[bytes]:
    """Return an office's traffic with attacks in it."""
    return [frame.data for frame in mix.demo(seed=1).frames] * ROUNDS


@pytest.fixture(scope="module")
def many_hits() -> bytes:
    """Return a payload that many of our own rules match."""
    if MANY_HITS.exists():
        return MANY_HITS.read_bytes()
    return payload_with_matches(Matcher(load_rules(BUNDLED_RULES)))


def attack(number: int, payload: bytes = b"GET / HTTP/1.1\r\nUser-Agent: ${jndi:ldap://") -> bytes:
    """Return a frame of the attacker, which has many ports; rules match it, and it takes long."""
    segment = tcp(payload + COSTLY, sport=2000 + number % PORTS, dport=8080)
    return ethernet(IPV4, ipv4(TCP, segment, source=ATTACKER, destination="198.51.100.10"))


def interleaved(office: list[bytes], attacks: list[bytes]) -> list[bytes]:
    """Return both, evenly mixed."""
    numbered = [
        ((number + 0.5) / len(frames), frame)
        for frames in (office, attacks)
        for number, frame in enumerate(frames)
    ]
    return [frame for _, frame in sorted(numbered, key=lambda pair: pair[0])]


def of_the_office(paths: list[Path]) -> list[bytes]:
    """Return the evidence that is not the attacker's."""
    packed = bytes(map(int, ATTACKER.split(".")))
    return [frame for frame in frames_of(paths) if packed not in frame[26:34]]


def test_the_office_is_matched_beside_an_attacker(
    network: Network, tmp_path: Path, office: list[bytes], many_hits: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of its evidence is lost; metrics, status and the log name the attacker."""
    monkeypatch.setenv("SENSOR_RULES", str(BUNDLED_RULES))
    assert COST_S * ATTACKS / SECONDS >= 10  # CPUs, all of one worker's ring
    attacks = [attack(number, many_hits) for number in range(ATTACKS)]
    path = write(tmp_path / "both.pcap", interleaved(office, attacks))
    total = len(office) + ATTACKS
    _, expected = read_of(write(tmp_path / "office.pcap", office), tmp_path / "read", *ALL_KEPT)
    with running(network[0], tmp_path / "live", "--metrics", METRICS, *LARGER_RING, *ALL_KEPT) as run:
        with in_background(lambda: replay(network[1], path, pps=total // SECONDS)):
            ask_until(names_attacker)
            shown, listed = status("--once"), json.loads(status("--json"))
        wait_until_received(network[0], total)
        ask_until(lambda figures: not figures.total(c.IN_RING))
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed, counters.undecodable) == (total, 0, 0)
    assert counters.sampled > ATTACKS / 2
    assert sorted(of_the_office(run.files)) == sorted(frames_of(expected))
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
    path = write(tmp_path / "both.pcap", interleaved(office[:1000], list(map(attack, range(200)))))
    with running(network[0], tmp_path / "live", *RING, *ALL_KEPT) as run:
        replay(network[1], path)
        wait_until_received(network[0], 1200)
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.seen, counters.submit_failed, counters.sampled) == (1200, 0, 0)
    attacks = [frame for frame in frames_of(run.files) if COSTLY in frame]
    assert len(attacks) == 200
