"""Costly sources are sampled in an overload, others are matched, and nothing is sampled otherwise."""

from __future__ import annotations

import os
from math import inf

import numpy as np
import pytest
from numpy.typing import NDArray
from source_packets import MS, SECOND, START_NS, SourcePackets

from sensor.capture.fair_shares import (
    FREE_FILL,
    LEAST,
    WHOLE,
    FairShares,
    capacity_for,
    fair_level,
    levels_of,
)
from sensor.native.source_table import SOURCES, SourceTable

OVERLOADED = 0.5
"""A fill of the ring at which less than the whole CPU is shared out."""
ATTACKER = "10.66.66.66"
HOSTS = [f"192.0.2.{number}" for number in range(1, 51)]


def charge(table: SourceTable, packets: SourcePackets, cost_ns: int) -> None:
    """Charge the same cost for each packet."""
    table.charge(packets.data, packets.columns, np.full(len(packets), cost_ns))


def admitted(table: SourceTable, packets: SourcePackets, fill: float = OVERLOADED) -> NDArray[np.bool_]:
    """Return which packets are matched."""
    return FairShares(table, lambda: fill).admit(packets.data, packets.columns)


def admit_and_charge(table: SourceTable, packets: SourcePackets, cost_ns: int) -> NDArray[np.bool_]:
    """Return which packets are matched, and charge them."""
    kept = admitted(table, packets)
    table.charge(packets.data, packets.columns, np.where(kept, cost_ns, -1))
    return kept


def send(table: SourceTable, sources: list[str], until_ms: int, cost_ns: int, start_ms: int = 0) -> None:
    """Charge a packet of each source every 10 ms."""
    for at_ms in range(start_ms, until_ms, 10):
        charge(table, SourcePackets(sources, at_ms * MS), cost_ns)


def attack(start_ms: int = 0, ms: int = 1000, per_ms: int = 20) -> SourcePackets:
    """Return an attacker's packets, each from another port."""
    times = start_ms * MS + np.arange(ms * per_ms) * MS // per_ms
    return SourcePackets([ATTACKER] * len(times), times, 2000 + np.arange(len(times)) % 10_000)


def demand_of(table: SourceTable, now_ns: int) -> float:
    """Return what all sources ask for."""
    return float(table.listing(START_NS + now_ns).demand.sum())


def sources_of(table: SourceTable) -> NDArray[np.void]:
    """Return all sources that have a place."""
    sources = table.sources(np.arange(SOURCES))
    return sources[sources["key"] > 0]


def test_the_level_shares_out_the_capacity() -> None:
    """No source has more than the level, and no capacity is left while a source asks for more."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        demands = rng.exponential(size=rng.integers(1, 50)) ** 3
        weights = rng.integers(0, 4, len(demands)).astype(float)
        capacity = rng.uniform(0, 2) * (demands @ weights)
        level = fair_level(demands, weights, capacity)
        if demands @ weights <= capacity:
            assert level == inf
        else:
            assert np.minimum(demands, level) @ weights == pytest.approx(capacity)


@pytest.mark.parametrize(
    ("demands", "capacity", "level"),
    [([], 1, inf), ([0.2, 0.3], 0.5, inf), ([3.0], 1, 1), ([0.1, 3, 2], 1, 0.45), ([1, 1, 1, 1], 1, 0.25)],
)
def test_levels_by_hand(demands: list[float], capacity: float, level: float) -> None:
    """A source below the level gets what it asks for."""
    assert fair_level(np.array(demands, float), np.ones(len(demands)), capacity) == pytest.approx(level)


def test_the_demand_is_the_share_of_a_cpu() -> None:
    """A packet of 2 ms every 10 ms takes a fifth of a CPU; half a second after the last one, half counts."""
    table = SourceTable()
    send(table, [ATTACKER], 10_000, 2 * MS)
    assert demand_of(table, 10 * SECOND) == pytest.approx(0.2, rel=0.02)
    assert demand_of(table, 10 * SECOND + SECOND // 2) == pytest.approx(0.1, rel=0.02)
    assert demand_of(table, 100 * SECOND) == pytest.approx(0, abs=1e-9)


def test_nothing_is_sampled_without_an_overload() -> None:
    """A costly source alone is none, nor is a full ring if its sources ask for little."""
    table = SourceTable()
    charge(table, attack(), 10 * MS)
    assert admitted(table, attack(1000), FREE_FILL).all()
    assert not admitted(table, attack(1000), FREE_FILL + 0.01).all()
    quiet = SourceTable()
    send(quiet, HOSTS, 5000, int(LEAST * WHOLE * 0.9 * 10 * MS / len(HOSTS)))
    assert admitted(quiet, SourcePackets(HOSTS, 5 * SECOND), 1.0).all()


@pytest.mark.parametrize("dear", [0.5, 5, 50])
def test_less_is_shared_out_the_fuller_the_ring_is(dear: float) -> None:
    """In an overload, all that is less is taken from the dear source; before, everybody has less."""
    demands, weights = np.array([0.1, dear, 0.05]), np.ones(3)
    capacities = [capacity_for(demands, weights, fill) for fill in np.linspace(0, 1, 50)]
    others = 0.15 if dear > 1 else 0
    assert capacities == sorted(capacities, reverse=True)
    assert capacities[0] == pytest.approx(WHOLE)
    assert capacities[-1] == pytest.approx(others + LEAST * (WHOLE - others))


def test_sources_that_ask_for_little_are_not_sampled_however_full_the_ring_is() -> None:
    """Half of the CPU is theirs, a costly source asks for 15, and the ring is full."""
    table = SourceTable()
    send(table, HOSTS, 1000, 100_000)
    charge(table, attack(), MS)
    assert admitted(table, SourcePackets(HOSTS, SECOND), 1.0).all()
    assert admitted(table, attack(1000, 100), 1.0).mean() < 0.05


@pytest.mark.parametrize("cost_ns", [100_000, 2 * MS])
def test_the_dearest_source_is_sampled_and_the_others_are_not(cost_ns: int) -> None:
    """It keeps the part that fits in beside the others."""
    table = SourceTable()
    send(table, HOSTS, 1000, 20_000)
    charge(table, attack(), cost_ns)
    assert admitted(table, SourcePackets(HOSTS, SECOND)).all()
    kept = admitted(table, SourcePackets([ATTACKER] * 50_000, SECOND, np.arange(50_000)))
    asked, rest = 20_000 * cost_ns / SECOND * 0.75, 0.1 * 0.75  # after a second, three quarters are there
    share = capacity_for(np.array([rest, asked]), np.ones(2), OVERLOADED) - rest
    assert kept.mean() == pytest.approx(share / asked, rel=0.25)


def test_sampled_packets_count_as_asked_for() -> None:
    """A source stays sampled, although what is left of it costs little."""
    table = SourceTable()
    for at_ms in range(0, 5000, 50):
        kept = admit_and_charge(table, attack(at_ms, 50), 200_000)
    assert demand_of(table, 5 * SECOND) == pytest.approx(4, rel=0.1)
    share = capacity_for(np.array([4.0]), np.ones(1), OVERLOADED)
    assert kept.mean() == pytest.approx(share / 4, rel=0.9)
    [source] = sources_of(table)
    assert source["sampled"] > 70_000


def test_whole_flows_are_sampled() -> None:
    """In an eighth of a second, all packets of a flow are kept or none is; later it is others."""
    table = SourceTable()
    charge(table, attack(), 50_000)
    slice_ns = 1 << 27
    first = (START_NS // slice_ns + 8) * slice_ns - START_NS
    ports = np.arange(2000)
    fates = [
        admitted(table, SourcePackets([ATTACKER] * len(ports), at_ns, ports))
        for at_ns in (first, first + slice_ns // 2, first + slice_ns)
    ]
    other = SourceTable()  # of another process, in which the same flows have another fate
    charge(other, attack(), 50_000)
    fates.append(admitted(other, SourcePackets([ATTACKER] * len(ports), first, ports)))
    assert 0.2 < fates[0].mean() < 0.6
    assert (fates[1] >= fates[0]).all()  # the demand has decayed a little, so a few more are kept
    assert all((fate != fates[0]).mean() > 0.2 for fate in fates[2:])


def test_ipv6_sources_are_networks() -> None:
    """All addresses of a /64 are one source, and an IPv4 address is none of its prefix."""
    table = SourceTable()
    charge(table, SourcePackets([f"2001:db8:66::{number:x}" for number in range(1, 1000)]), MS)
    charge(table, SourcePackets(["32.1.13.184", "2001:db8:67::1"]), MS)
    sources = sources_of(table)
    assert sorted(sources["sums"]["offered"].tolist()) == [1, 1, 999]
    assert sorted(sources["version"].tolist()) == [4, 6, 6]


def test_forged_addresses_do_not_displace_known_sources() -> None:
    """Hosts seen for ten seconds are matched beside a flood in which each packet has another address."""
    table, rng = SourceTable(), np.random.default_rng(2)
    send(table, HOSTS, 12_000, 20_000)
    kept_forged: list[bool] = []
    kept_known: list[bool] = []
    for at_ms in range(12_000, 13_000, 10):
        forged = [f"10.{a}.{b}.{c}" for a, b, c in rng.integers(0, 256, (200, 3)).tolist()]
        for sources, fates, cost_ns in ((HOSTS, kept_known, 20_000), (forged, kept_forged, 500_000)):
            fates.extend(admit_and_charge(table, SourcePackets(sources, at_ms * MS), cost_ns).tolist())
    assert all(kept_known)
    assert np.mean(kept_forged[len(kept_forged) // 2 :]) < 0.15
    assert table.listing(START_NS + 13 * SECOND).offered[-1] > 0


def test_new_sources_may_use_what_known_ones_leave() -> None:
    """A busy server has new clients all the time. All together get half of what there is at least."""
    table = SourceTable()
    for at_ms in range(0, 12_000, 10):
        new = [f"10.{at_ms // 2560}.{at_ms // 10 % 256}.{number}" for number in range(20)]
        charge(table, SourcePackets(HOSTS, at_ms * MS), 20_000)
        charge(table, SourcePackets(new, at_ms * MS), 60_000)
    listing = table.listing(START_NS + 12 * SECOND)
    known = listing.demand[listing.is_known]
    unknown, weights = listing.demand[:-1][~listing.is_known[:-1]], np.ones(SOURCES - len(known))
    others = listing.offered[-1]
    unknown, weights = np.append(unknown, listing.demand[-1] / others), np.append(weights, others)
    assert known.sum() == pytest.approx(0.1, rel=0.1)
    assert (unknown * weights).sum() == pytest.approx(0.12, rel=0.1)
    assert levels_of(listing, FREE_FILL)[:2] == (inf, inf)
    for fill in (0.6, 1.0):
        everybody = np.append(known, unknown), np.append(np.ones(len(known)), weights)
        capacity = capacity_for(*everybody, fill)
        levels = levels_of(listing, fill)
        used = (np.minimum(unknown, levels.unknown) * weights).sum()
        assert used == pytest.approx(capacity / 2)
        assert used + np.minimum(known, levels.known).sum() == pytest.approx(capacity)


class Worker:
    """A worker that shares its time."""

    def __init__(self) -> None:
        self.fill = 0.0
        self.table = SourceTable()
        self._shares = FairShares(self.table, lambda: self.fill)

    def match(self, sources: list[str], at_ms: int, cost_ns: int) -> NDArray[np.bool_]:
        """Return which packets of the sources are matched, and charge them."""
        packets = SourcePackets(sources, at_ms * MS, at_ms % 60_000)
        self._shares._levels_end_ns = 0  # time passes more slowly here than for the packets
        kept = self._shares.admit(packets.data, packets.columns)
        no_evidence = np.zeros(len(packets), np.bool_)
        self._shares.charge(packets.data, packets.columns, np.where(kept, cost_ns, -1), no_evidence)
        return kept


def test_who_asks_for_no_more_than_usual_is_matched() -> None:
    """Thousands of addresses that were there before, and ask for more and more, take nothing from others."""
    worker = Worker()
    attackers = [f"10.66.{number // 200}.{number % 200}" for number in range(4000)]
    for at_ms in range(0, 180_000, 100):
        worker.match(HOSTS, at_ms, 200_000)
        if at_ms % 15_000 == 0:
            worker.match(attackers, at_ms + 50, 5000)
    worker.fill = 0.9
    kept_hosts, kept_attackers = [], []
    for at_ms in range(180_000, 184_000, 100):
        kept_hosts.extend(worker.match(HOSTS, at_ms, 200_000))
        kept_attackers.extend(
            worker.match(attackers[:1000] if at_ms % 200 else attackers, at_ms + 50, 100_000)
        )
    assert worker.table.listing(START_NS + 184_000 * MS).is_known.sum() > 4000
    assert all(kept_hosts)
    assert np.mean(kept_attackers[len(kept_attackers) // 2 :]) < 0.1


def test_an_overload_never_becomes_usual() -> None:
    """The costs of an overload do not count, however long it lasts; those before it remain."""
    worker = Worker()
    for at_ms in range(0, 120_000, 100):
        worker.match(HOSTS, at_ms, 200_000)
    usual = worker.table.listing(START_NS + 120_000 * MS).usual.sum()
    worker.fill = 0.9
    for at_ms in range(120_000, 150_000, 100):
        worker.match([ATTACKER] * 10, at_ms, 50 * MS)
        worker.match(HOSTS, at_ms, 200_000)
    assert usual == pytest.approx(0.1, rel=0.1)
    assert worker.table.listing(START_NS + 150_000 * MS).usual.sum() == pytest.approx(usual, rel=0.1)


@pytest.mark.parametrize("dear", [1, 50])
def test_what_is_usual_leaves_half_for_the_rest(dear: int) -> None:
    """Sources that took nearly everything for minutes do not keep new ones from being matched."""
    worker = Worker()
    attackers = [f"10.66.66.{number}" for number in range(dear)]
    for at_ms in range(0, 180_000, 100):
        worker.match(attackers, at_ms, 85 * MS // dear)
    worker.fill = 0.9
    kept = []
    for at_ms in range(180_000, 183_000, 100):
        worker.match(attackers * (200 // dear), at_ms, MS)
        kept.extend(worker.match(HOSTS, at_ms + 50, 20_000))
    assert np.mean(kept) > 0.95
    assert worker.table.listing(START_NS + 183_000 * MS).usual.sum() <= 0.02 * dear


def test_a_clock_that_is_set_changes_nothing_for_long() -> None:
    """Neither a year forwards nor a year back stops the accounting."""
    year_ms = 365 * 86_400_000
    table = SourceTable()
    charge(table, attack(), MS)
    for start_ms in (year_ms, 0):
        charge(table, attack(start_ms), MS)
        assert admitted(table, attack(start_ms + 1000, 100)).mean() < 0.1
        assert demand_of(table, (start_ms + 1000) * MS) == pytest.approx(20 * 0.75, rel=0.4)


def test_the_costs_outlive_the_process() -> None:
    """The successor of a worker knows which sources are costly."""
    table = SourceTable()
    pid = os.fork()
    if pid == 0:
        charge(table, attack(), MS)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert admitted(table, attack(1000, 100)).mean() < 0.1


@pytest.mark.parametrize("filling", ["ones", "random", "infinite"])
def test_a_table_with_anything_in_it_is_harmless(filling: str) -> None:
    """A hostile worker may leave it behind; soon after a minute the shares are fair again."""
    table, rng = SourceTable(), np.random.default_rng(3)
    memory = table._table.view(np.uint8)
    memory[:] = 0xFF if filling == "ones" else rng.integers(0, 256, len(memory), np.uint8)
    if filling == "infinite":
        for part in (table._table["all"], table._table["rest"], table._table["sources"]["sums"]):
            part["offered"] = part["cost_ns"] = inf
            part["at_ns"] = START_NS
    for start_ms in (0, *range(61_000, 75_000, 1000)):
        send(table, HOSTS, start_ms + 1000, 20_000, start_ms)
        charge(table, attack(start_ms), MS)
        admitted(table, attack(start_ms))
    assert admitted(table, SourcePackets(HOSTS, 75 * SECOND)).all()
    kept = admitted(table, SourcePackets([ATTACKER] * 10_000, 75 * SECOND, np.arange(10_000)))
    assert 0 < kept.mean() < 0.1


def test_reports_are_charged_to_the_evidence() -> None:
    """A source whose packets are cheap to match is costly if all of them have to be written."""
    table = SourceTable()
    shares = FairShares(table, lambda: OVERLOADED)
    numbers = np.arange(10_000)
    packets = SourcePackets([ATTACKER, *HOSTS[:9]] * 1000, numbers * SECOND // 10_000, numbers)
    is_evidence = numbers % 10 == 0
    shares.note_report(1000 * MS, 1000)
    shares.charge(packets.data, packets.columns, np.full(10_000, 1000), is_evidence)
    kept = shares.admit(packets.data, packets.columns)
    assert kept[~is_evidence].all()
    assert kept[is_evidence].mean() < 0.6


def test_waiting_for_a_cpu_is_charged_in_proportion() -> None:
    """If other processes need most of the CPU, the costliest source is still the one to be sampled."""
    table = SourceTable()
    shares = FairShares(table, lambda: OVERLOADED)
    numbers = np.arange(10_000)
    packets = SourcePackets([ATTACKER, *HOSTS[:9]] * 1000, numbers * SECOND // 10_000, numbers)
    cost_ns = np.where(numbers % 10, 5_000, 500_000)
    no_evidence = np.zeros(10_000, np.bool_)
    shares.charge(packets.data, packets.columns, cost_ns, no_evidence, took_ns=4 * int(cost_ns.sum()))
    assert demand_of(table, SECOND) == pytest.approx(4 * 0.545 * 0.75, rel=0.1)
    kept = shares.admit(packets.data, packets.columns)
    assert kept[numbers % 10 > 0].all()
    assert kept[numbers % 10 == 0].mean() < 0.6


def test_work_for_all_frames_is_charged_to_each() -> None:
    """A flood of packets without anything to match takes time, too."""
    table = SourceTable()
    shares = FairShares(table, lambda: OVERLOADED)
    packets = attack()
    shares.note_turn(2000 * MS, len(packets))
    shares.charge(packets.data, packets.columns, np.zeros(len(packets)), np.zeros(len(packets), np.bool_))
    assert demand_of(table, SECOND) == pytest.approx(2 * 0.75, rel=0.1)
