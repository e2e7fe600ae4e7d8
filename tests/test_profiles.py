"""Generated traffic for measurements: repeatable, with the requested length and share of matches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import dpkt
import pytest

from sensor.bench.traffic import sizes
from sensor.bench.traffic.profiles import PROFILES, generate
from sensor.bench.traffic.tunnels import TUNNELS

REPOSITORY = Path(__file__).parent.parent
FRAMES = 1500


def write(path: Path, profile: str, *flags: str) -> Path:
    """Run the generator as a user does."""
    command = [
        sys.executable,
        "-m",
        "sensor.bench.traffic",
        profile,
        str(path),
        "--frames",
        str(FRAMES),
        *flags,
    ]
    subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True)
    return path


@pytest.mark.parametrize("name", PROFILES)
def test_a_seed_gives_the_same_frames(name: str) -> None:
    """The requested number of frames is made, in the order of time; another seed gives other frames."""
    made = generate(PROFILES[name], 7, FRAMES)
    assert made == generate(PROFILES[name], 7, FRAMES)
    assert made != generate(PROFILES[name], 8, FRAMES)
    assert len(made) == FRAMES
    assert made == sorted(made)


@pytest.mark.parametrize(
    ("name", "share"), [("office", 0.1), ("attack", 0.9), ("tunnels", 0.1), ("imix", 0.1)]
)
def test_the_requested_share_matches(tmp_path: Path, name: str, share: float) -> None:
    """The requested share of packets matches a threat rule, or in datagrams the rule for BitTorrent."""
    capture = write(tmp_path / "out.pcap", name, "--matching", str(share))
    command = [sys.executable, "-m", "sensor", "read", "--rules", "fp-pattern", "--json", str(capture)]
    lines = subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True).stdout
    found = [json.loads(line) for line in lines.splitlines()]
    wanted = [one for one in found if one["class"] == "threat" or one["name"] == "BitTorrent DHT"]
    assert len({(one["time_us"], one["sip"], one["sport"]) for one in wanted}) == round(FRAMES * share)


def test_sizes_are_those_of_the_profile() -> None:
    """`smallest` has the smallest frames only, and `imix` the shares of the simple Internet mix."""
    assert {len(frame.data) for frame in generate(PROFILES["smallest"], 1, FRAMES)} == {60}
    lengths = Counter(len(frame.data) for frame in generate(PROFILES["imix"], 1, FRAMES, matching=0))
    assert set(lengths) == {60, 590, 1514}
    for weight, length in sizes.SIMPLE_IMIX:
        assert lengths[max(60, 14 + length)] / FRAMES == pytest.approx(weight / 12, abs=0.05)


def test_wireshark_decodes_the_tunnels(tmp_path: Path) -> None:
    """Wireshark recognises each kind of tunnel, and a packet inside it."""
    capture = write(tmp_path / "out.pcap", "tunnels")
    command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-e", "frame.protocols"]
    stacks = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for stack in (":gre:ip", ":ip:ip", ":vxlan:eth", ":geneve:eth", ":mpls:ip", ":pppoes:ppp:ip"):
        assert stack in stacks.replace("ethertype:", ""), stack
    assert len(TUNNELS) == 6


def test_a_data_centre_has_elephants_and_mice(tmp_path: Path) -> None:
    """A tenth of the flows carries more than a third of the bytes."""
    carried: Counter[tuple[bytes, int]] = Counter()
    with write(tmp_path / "out.pcap", "datacenter").open("rb") as file:
        for _, data in dpkt.pcap.Reader(file):
            ip = dpkt.ethernet.Ethernet(data).data
            carried[min((ip.src, ip.data.sport), (ip.dst, ip.data.dport))] += len(data)
    largest = [size for _, size in carried.most_common(max(1, len(carried) // 10))]
    assert sum(largest) > sum(carried.values()) / 3
