"""The costliest sources are named, with bounds, whatever a hostile worker writes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from source_packets import MS, SECOND, SourcePackets

from sensor.metrics.costly_sources import LEAST_DEMAND, MOST_NAMED, OTHER, QUIET_S, CostlySources
from sensor.native.source_table import SourceTable

ATTACKER, NEIGHBOUR = "10.66.66.66", "2001:db8:66::1"


class Site:
    """The tables of two workers, and a clock."""

    def __init__(self) -> None:
        self.tables = [SourceTable(), SourceTable()]
        self.now_s = 100.0
        self.sampled = 0
        self.costly = CostlySources(self.tables, lambda: self.now_s)

    def send(self, source: str, cost_ns: int, sampled: float = 0.0, workers: int = 2) -> None:
        """Charge 1000 packets of a second, a part of which is sampled, at each worker."""
        packets = SourcePackets([source] * 1000, int(self.now_s * SECOND) + np.arange(1000) * MS)
        costs = np.where(np.arange(1000) < 1000 * sampled, -1, cost_ns)
        for table in self.tables[:workers]:
            table.charge(packets.data, packets.columns, costs)
            self.sampled += int((costs < 0).sum())

    def look(self) -> None:
        """Let a second pass, and look at the tables."""
        self.now_s += 1
        self.costly.tick(self.sampled)


def test_the_costliest_sources_of_all_workers() -> None:
    """A CPU is that of one worker; sources that ask for little are counted together."""
    site = Site()
    for _ in range(5):
        site.send(ATTACKER, MS // 2)
        site.send(NEIGHBOUR, MS // 4, workers=1)
        site.send("192.0.2.1", int(LEAST_DEMAND * MS / 5))
        site.look()
    names, demands, matched = zip(*site.costly.figures, strict=True)
    assert names == (ATTACKER, "2001:db8:66::/64", OTHER)
    assert demands == pytest.approx((1.0, 0.25, 2 * LEAST_DEMAND / 5), rel=0.1)
    assert matched == (1, 1, 1)


def test_nothing_is_named_while_nothing_arrives() -> None:
    """An attack that is over is not shown for ever."""
    site = Site()
    site.look()
    assert site.costly.figures == [(OTHER, 0, 1)]
    site.send(ATTACKER, MS)
    site.look()
    assert [source.address for source in site.costly.figures] == [ATTACKER, OTHER]
    site.look()
    assert site.costly.figures == [(OTHER, 0, 1)]


def test_a_few_are_named() -> None:
    """The others are counted together, so that the demands add up."""
    site = Site()
    for number in range(1, 10):
        site.send(f"192.0.2.{number}", number * MS)
    site.look()
    assert [source.address for source in site.costly.figures] == [
        *(f"192.0.2.{number}" for number in range(9, 9 - MOST_NAMED, -1)),
        OTHER,
    ]
    assert site.costly.figures[-1].demand == pytest.approx(2 * 0.75 * (1 + 2 + 3 + 4), rel=0.1)


def test_sampling_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One line when it begins, with address and share, and one when it is over."""
    caplog.set_level(logging.INFO)
    site = Site()
    for _ in range(3):
        site.send(ATTACKER, MS)
        site.look()
    assert caplog.messages == []
    for _ in range(10):
        site.send(ATTACKER, MS, 0.75)
        site.look()
    [begun] = caplog.messages
    assert begun == (
        "overload: packets from 10.66.66.66 are sampled, 54 % of them are matched; "
        "all of them would take 199 % of a CPU"
    )
    for _ in range(int(QUIET_S)):
        site.send(ATTACKER, 1)
        site.look()
    [_, over] = caplog.messages
    assert over == (
        "overload over: packets from 10.66.66.66 are no longer sampled; 15,000 were not matched in 10 s"
    )


def test_forged_sources_are_logged_together(caplog: pytest.LogCaptureFixture) -> None:
    """Sources of which none stands out cost one line and no series, however many there are."""
    site = Site()
    for second in range(20):
        for number in range(50):
            site.send(f"10.0.{second}.{number}", MS // 1000, 0.9, workers=1)
        site.look()
    assert [source.address for source in site.costly.figures] == [OTHER]
    assert len(caplog.messages) == 1
    assert "packets from many sources are sampled" in caplog.messages[0]


def test_the_log_does_not_grow_with_the_attackers(caplog: pytest.LogCaptureFixture) -> None:
    """Attackers that take turns are named only a few at a time."""
    site = Site()
    for second in range(int(QUIET_S)):  # two seconds each
        for _ in range(2):
            site.send(f"10.66.66.{second}", MS, 0.5)
            site.look()
    episodes = 2 * (MOST_NAMED + 1)  # in a minute; each has a line at its begin, and one at its end
    assert 0 < len(caplog.messages) <= 2 * episodes


@pytest.mark.parametrize("filling", ["ones", "random", "nan"])
def test_a_hostile_table_is_bounded(filling: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is in it, there are a few finite figures and lines."""
    site, rng = Site(), np.random.default_rng(4)
    memory = site.tables[0]._table.view(np.uint8)
    for _ in range(40):
        memory[:] = 0xFF if filling == "ones" else rng.integers(0, 256, len(memory), np.uint8)
        if filling == "nan":
            sources = site.tables[0]._table["sources"][0]
            sources["sums"]["at_ns"] = site.tables[0]._table["all"]["at_ns"] = int(site.now_s * SECOND)
            sources["sums"]["offered"] = sources["sums"]["cost_ns"] = rng.choice([np.nan, np.inf, -1, 1e300])
        site.sampled += 1000
        site.look()
        assert len(site.costly.figures) <= MOST_NAMED + 1
        for source in site.costly.figures:
            assert 0 <= source.demand <= 1e9
            assert 0 <= source.matched <= 1
            assert source.address == OTHER or all(char in "0123456789abcdef.:/" for char in source.address)
    assert len(caplog.messages) <= 4 * (MOST_NAMED + 1)
