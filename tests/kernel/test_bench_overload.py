"""``sensor bench overload``: attacks beside floods are counted, and the culprit is named."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner
from overloaded_sensor import COSTLY

from sensor.bench import overload, overload_trial
from sensor.bench.effort import OverloadEffort
from sensor.bench.flood import CLIENT_PORTS, ORIGINS, Flood, FloodKind
from sensor.bench.flood_payloads import (
    PAYLOAD_BYTES,
    PORTS,
    match_us,
    payload_with_matches,
    payload_without_match,
)
from sensor.bench.frame_pacer import FramePacer
from sensor.bench.overload_trial import office_traffic
from sensor.bench.wire import private_wire
from sensor.capture.cpus import online_cpus
from sensor.cli import bench_overload, cli
from sensor.cli.bench_overload_output import overload_lines
from sensor.counters import Counters
from sensor.decode import decode
from sensor.errors import SensorError
from sensor.model import Rule
from sensor.protocols import TCP
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.engine.matcher import Matcher
from tests.kernel.test_parse import batch_of

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]

ROOT = Path(__file__).parents[2]
SHORT = OverloadEffort(0.5, 1.5)
SLOWED = (sys.executable, str(Path(__file__).with_name("overloaded_sensor.py")))
REGEXES = (r"union\s+select", "eval\\(", "passwd", "(?:a|b)*a(a|b){9}c", "^GET /x")


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    """Return a matcher of a few rules."""
    return Matcher([Rule(number, "threat", "t", "n", regex) for number, regex in enumerate(REGEXES, 1)])


def no_step(_what: str) -> None:
    """Show no progress."""


def test_payloads_of_floods(matcher: Matcher) -> None:
    """Many rules match one of them, and no rule the other; both look like HTTP, and fit in a packet."""
    many, none = payload_with_matches(matcher), payload_without_match(matcher, Random(1), 50)
    assert len(matcher.match(many, TCP, *PORTS)) >= len(REGEXES) - 1  # one of them is for another path
    assert match_us(matcher, none)[1] == 0
    for payload in (many, none):
        assert RFC9110.matches(payload)
        assert len(payload) <= PAYLOAD_BYTES


@pytest.mark.parametrize("origin", ORIGINS)
def test_frames_of_floods(origin: str) -> None:
    """Each can be decoded; their sources are as many as the name says."""
    flood = Flood(FloodKind("kind", b"GET / HTTP/1.1\r\n\r\n", 1), ORIGINS[origin])
    frames = list(islice(flood.frames(seed=1), 20_000))
    packets = decode(batch_of(frames))
    data = b"".join(frames)
    size = 4 if ORIGINS[origin].version == 4 else 8
    sources = {data[at : at + size] for at in packets.source_offset.tolist()}
    assert {"one": 1, "networks": 4, "many": 200}.get(origin, 18_000) <= len(sources)
    assert origin == "forged" or len(sources) <= 200
    assert len(set(packets.sport.tolist())) == CLIENT_PORTS
    assert {
        data[start:end] for start, end in zip(packets.payload_start, packets.payload_end, strict=True)
    } == {flood.kind.payload}


def test_attacks_of_the_office_are_those_of_the_flood_s_time() -> None:
    """They are at an even pace, and the same for the same seed."""
    office = office_traffic(OverloadEffort(2, 3), per_second=100, every=10, seed=1)
    assert len(office.frames) == 650
    assert [number for number, frame in enumerate(office.frames) if frame in office.attacks] == list(
        range(200, 500, 10)
    )
    assert office == office_traffic(OverloadEffort(2, 3), per_second=100, every=10, seed=1)


def test_frames_are_sent_at_a_pace() -> None:
    """All of them arrive, in no less time than they should take."""
    with private_wire() as wire:
        received = wire.received()
        pacer = FramePacer(wire.source, [bytes(60)] * 300, 1000, 0.3, online_cpus()[0], urgent=True)
        sent = pacer.wait()
        assert wire.settle(received + 300) == received + 300
        pacer.close()
    assert (sent.frames, sent.octets) == (300, 300 * 60)
    assert sent.seconds >= 0.299
    assert sent.per_second <= sent.asked * 1.01


@pytest.mark.timeout(300)
def test_figures_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a flood that is too much for the sensor, the source is sampled and named."""
    monkeypatch.setattr(overload, "payload_without_match", lambda *_: b"GET /" + COSTLY)
    monkeypatch.setenv("SENSOR_RING_MIB", "1")
    (tmp_path / "out").mkdir()
    found = overload.measure(["one"], SHORT, no_step, directory=tmp_path / "out", sensor=SLOWED)
    assert list((tmp_path / "out").iterdir()) == []
    assert [row["kind"] for row in found["rows"]] == [kind["kind"] for kind in found["kinds"]]
    for row in (found["alone"], *found["rows"]):
        calm_s = 0 if row is found["alone"] else SHORT.calm_s
        sent = int((calm_s + SHORT.flood_s + overload_trial._AFTER_S) * found["office_per_second"])
        counters = Counters(**row["counters"])
        assert all(total == parts for _, _, total, parts in counters.equations())
        assert counters.seen + row["lost"]["wire"] == sent + row["flood_frames"]
        assert row["share_of_alone"] == round(row["attacks_found"] / found["alone"]["attacks_found"], 4)
    assert 0 < found["alone"]["attacks_found"] <= found["attacks"]
    unmatched = found["rows"][1]
    assert unmatched["given_up"]["sampled"] > 0
    assert (
        max(unmatched["costliest"], key=lambda one: unmatched["costliest"][one]["cpu_ratio"]) == "198.18.0.1"
    )
    assert "198.18.0.1" in "\n".join(overload_lines(json.loads(json.dumps(found))))


def test_rules_that_find_no_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to compare with, and a message says so."""
    monkeypatch.setattr(overload_trial, "_frames_of", lambda _evidence: iter(()))
    with pytest.raises(SensorError, match="the rules find none of the attacks"):
        overload.measure(["one"], OverloadEffort(0.1, 0.1), no_step, directory=tmp_path)


def test_the_flag_names_all_origins() -> None:
    """The command offers what is measured."""
    assert list(ORIGINS) == list(bench_overload.ORIGINS)
    refused = CliRunner().invoke(cli, ["bench", "overload", "--origin", "mars"])
    assert refused.exit_code == 2


def test_without_root() -> None:
    """The error is a line, not a traceback."""
    command = [
        "setpriv",
        "--reuid",
        "65534",
        "--clear-groups",
        sys.executable,
        "-m",
        "sensor",
        "bench",
        "overload",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "root" in done.stderr
    assert "Traceback" not in done.stderr
