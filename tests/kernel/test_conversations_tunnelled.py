"""Conversations of `sensor run` in tunnels, whose inner flows the kernel does not know."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from live import METRICS, running, wait_until_received
from processes import wait_until
from test_conversations_disturbed import conversations, hit_of, send, wait_for_match, wire
from test_run import Network, assert_law
from test_run_conversations import attacks, kept

from sensor.bench.traffic.frames import Frame
from sensor.bench.traffic.tunnels import Tunnel, pppoe, vxlan
from sensor.metrics import catalogue as c
from sensor.metrics.figures import ask

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]


@pytest.mark.parametrize("tunnel", [vxlan, pppoe])
def test_a_conversation_in_a_tunnel(network: Network, tmp_path: Path, tunnel: Tunnel) -> None:
    """It is whole, each frame once, whatever else is in the same tunnel."""
    [talk] = attacks(1)
    [other] = attacks(1, seed=7)
    rng, hit = Random(1), hit_of(talk)
    frames = [Frame(frame.time_us, tunnel(rng, frame.data)) for frame in talk.frames]
    around = [Frame(frame.time_us, tunnel(rng, frame.data)) for frame in other.frames[:3]]
    with running(network[0], tmp_path, "--keep", "threat") as run, wire(network) as source:
        send(source, [*frames[: hit + 1], *around])
        wait_for_match()
        wait_until(lambda: ask(METRICS).total(c.RECALLED), every_s=0.05)
        send(source, frames[hit + 1 :])
        wait_until_received(network[0], len(frames) + len(around))
        assert run.stop() == 0
    assert_law(run)
    assert kept(run) == Counter(frame.data for frame in frames)
    [found] = conversations(tmp_path)
    assert (found["complete"], found["ended"], found["missing"]) == (True, "fin", [])
