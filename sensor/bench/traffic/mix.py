"""Mixes of conversations, among them the demo's traffic. Runs in the traffic generator.

The conversations start at random times within a span, and all frames are sorted by time, so that they
interleave as on a mirror port.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import NamedTuple

from sensor.bench.traffic import notable, ordinary
from sensor.bench.traffic.conversations import Expected
from sensor.bench.traffic.frames import Frame
from sensor.bench.traffic.ordinary import Builder

DEMO_START_US = 1_767_607_197_000_000
"""2026-01-05 09:59:57 UTC: three seconds before a new evidence file begins."""
DEMO_SPAN_US = 5_000_000
DEMO_ORDINARY: dict[Builder, int] = {
    ordinary.dns: 60,
    partial(ordinary.long_dns, version=4): 2,
    partial(ordinary.long_dns, version=6): 2,
    ordinary.browsing: 30,
    ordinary.tls: 40,
    ordinary.ntp: 10,
    ordinary.dhcp: 3,
    ordinary.arp: 15,
    ordinary.ping: 8,
    ordinary.mail: 4,
    ordinary.ssh_session: 6,
    ordinary.spanning_tree: 3,
}


class Traffic(NamedTuple):
    """Frames in order of time, and the matches expected in them."""

    frames: list[Frame]
    expected: list[Expected]


def demo(seed: int) -> Traffic:
    """Mix some seconds of an office network with every attack and banner."""
    builders: list[Builder] = [builder for builder, count in DEMO_ORDINARY.items() for _ in range(count)]
    builders += [partial(notable.exchange, what=what) for what in notable.ATTACKS + notable.BANNERS]
    return mix(Random(seed), builders, DEMO_START_US, DEMO_SPAN_US)


def mix(rng: Random, builders: list[Builder], start_us: int, span_us: int) -> Traffic:
    """Build a conversation with every builder, each starting at a random time within the span."""
    talks = [builder(rng, start_us + rng.randrange(span_us)) for builder in builders]
    return Traffic(
        sorted(frame for talk in talks for frame in talk.frames),
        sorted(
            (expected for talk in talks for expected in talk.expected), key=lambda expected: expected.time_us
        ),
    )
