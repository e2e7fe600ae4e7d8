"""The traffic generator: repeatable, and valid for other programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dpkt
import pytest

from bench.outcome import missing
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.bench.traffic.notable import ATTACKS, BANNERS

REPOSITORY = Path(__file__).parent.parent
CHECKSUMS = ("-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")


def output(*command: str) -> str:
    """Run a program and return its output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def shark(capture: Path, display_filter: str, *options: str) -> list[str]:
    """Return the frames of a capture that a display filter of Wireshark selects."""
    return output("tshark", "-n", "-r", str(capture), *options, "-Y", display_filter).splitlines()


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the demo's traffic to a file."""
    path = tmp_path_factory.mktemp("traffic") / "demo.pcap"
    write_capture(path, mix.demo(seed=1).frames)
    return path


def payloads(capture: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the time and the bytes of each frame, read by another library."""
    with capture.open("rb") as file:
        for time_s, data in dpkt.pcap.Reader(file):
            yield round(float(time_s) * 1e6), data


def test_a_seed_gives_the_same_traffic_each_time() -> None:
    """The same seed gives the same bytes and times; another seed gives others."""
    assert mix.demo(seed=7) == mix.demo(seed=7)
    assert mix.demo(seed=7).frames != mix.demo(seed=8).frames


def test_everything_notable_is_in_every_mix() -> None:
    """With any seed, each attack and each banner is present, on its own connection."""
    names = sorted(what.notable.name for what in ATTACKS + BANNERS)
    for seed in range(5):
        expected = mix.demo(seed).expected
        assert sorted(entry.name for entry in expected) == names
        assert len({(entry.sip, entry.sport, entry.dip, entry.dport) for entry in expected}) == len(names)


def test_other_programs_read_the_capture(capture: Path) -> None:
    """Tcpdump and capinfos read every frame, in the order of time."""
    frames = mix.demo(seed=1).frames
    lines = output("tcpdump", "-n", "-t", "-r", str(capture)).splitlines()
    assert sum(not line.startswith((" ", "\t")) for line in lines) == len(frames)
    facts = output("capinfos", "-c", "-o", str(capture))
    assert f"Number of packets:   {len(frames)}" in facts
    assert "Strict time order:   True" in facts


def test_wireshark_finds_nothing_wrong(capture: Path) -> None:
    """There is no bad checksum, no gap or repetition in a TCP stream, and no malformed message."""
    assert shark(capture, "_ws.expert.severity >= warning || _ws.malformed", *CHECKSUMS) == []
    assert len(shark(capture, "tcp.checksum.status == good", *CHECKSUMS)) > 2000


def test_ordinary_traffic_is_varied(capture: Path) -> None:
    """Each kind of frame of an office network is present, including link and network layers."""
    fields = ("-T", "fields", "-e", "frame.protocols")
    stacks = set(output("tshark", "-n", "-r", str(capture), *fields).replace("ethertype:", "").split())
    assert stacks >= {
        "eth:arp",
        "eth:ieee8021ad:vlan:ip:tcp:http",
        "eth:ieee8021ad:vlan:ipv6:tcp:http",
        "eth:ip:data",  # a fragment
        "eth:ip:icmp:data",
        "eth:ip:tcp:smtp",
        "eth:ip:tcp:ssh",
        "eth:ip:tcp:tls",
        "eth:ip:udp:dhcp",
        "eth:ip:udp:dns",
        "eth:ip:udp:ntp",
        "eth:ipv6:icmpv6:data",
        "eth:ipv6:ipv6.fraghdr:data",
        "eth:ipv6:tcp:http",
        "eth:ipv6:tcp:tls",
        "eth:ipv6:udp:dns",
        "eth:llc:stp",
        "eth:vlan:ip:tcp:http",
        "eth:vlan:ip:udp:dns",
    }


def test_expectations_point_at_the_bytes(capture: Path) -> None:
    """A frame at the time of each expectation contains its text."""
    frames = {}
    for time_us, data in payloads(capture):
        frames.setdefault(time_us, []).append(data)
    for entry in mix.demo(seed=1).expected:
        assert any(entry.text.encode("latin-1") in data for data in frames[entry.time_us]), entry


def test_the_sensor_finds_everything_notable_and_nothing_else(capture: Path) -> None:
    """Our own rules match each attack and banner in its packet, and find no threat elsewhere."""
    command = (sys.executable, "-m", "sensor", "read", "--rules", "fp-pattern", "--json", str(capture))
    lines = subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True).stdout
    found = [json.loads(line) for line in lines.splitlines()]
    expected = mix.demo(seed=1).expected
    assert list(missing(expected, found)) == []
    times = {one["time_us"] for one in found}
    assert times >= {one.time_us for one in expected}
    attacked = {
        frozenset({(one.sip, one.sport), (one.dip, one.dport)})
        for one in expected
        if one.rule_class == "threat"
    }
    for one in found:
        if one["class"] == "threat":
            assert {(one["sip"], one["sport"]), (one["dip"], one["dport"])} in attacked, one
