"""Packets in tunnels on a real interface: the kernel lets them pass, whatever the outer headers are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from frames import ethernet
from live import replay, running, wait_until_received
from tunnels import INNER_PACKETS, TUNNELS, tunnelled

from sensor.bench.traffic.frames import Frame, write_capture
from sensor.counters import Counters

pytestmark = pytest.mark.kernel

RULE = {"type": "Web", "name": "Request", "regex": "^GET /", "protocol": "tcp", "port": 80}


@pytest.fixture
def one_rule(tmp_path: Path) -> Path:
    """Write a rule set with which the kernel may ignore all UDP, and all TCP ports except one."""
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "service.json").write_text(json.dumps({"service": {"rules": {"1": RULE}}}))
    return rules


def test_a_rule_matches_in_every_tunnel(network: tuple[str, str], tmp_path: Path, one_rule: Path) -> None:
    """The inner headers count, in one tunnel and in two, with and without a tag; no frame is ignored."""
    _, ethertype, packet = INNER_PACKETS[0]
    stacks = [[name] for name in TUNNELS] + [[name, "vxlan"] for name in TUNNELS]
    sent = [
        ethernet(*tunnelled(names, ethertype, packet), tags) for names in stacks for tags in ((), (0x8100,))
    ]
    path = tmp_path / "tunnels.pcap"
    write_capture(path, [Frame(1_700_000_000_000_000 + i, frame) for i, frame in enumerate(sent)])
    with running(network[0], tmp_path / "evidence", "--rules", str(one_rule)) as run:
        replay(network[1], path)
        wait_until_received(network[0], len(sent))
        assert run.stop() == 0
    counters = Counters(**run.counters)
    assert counters.seen == counters.submitted == counters.matched == len(sent)
    expected = {"protocol": "TCP", "sip": "10.1.0.1", "sport": 40001, "dip": "10.2.0.2", "dport": 80}
    assert [{key: match[key] for key in expected} for match in run.matches] == [expected] * len(sent)
    assert [match["vlan"] for match in run.matches] == [[], [101]] * len(stacks)
