"""The kernel's flow table: a flow is judged by its own entry. It may be forgotten, but is never cut early."""

from __future__ import annotations

import os
import random
import time
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from itertools import combinations, pairwise

import pytest
from flow_packets import (
    CANDIDATE,
    CUT,
    DATA,
    HIGH,
    HIGH6,
    LOW,
    LOW6,
    ONE_SET,
    Open,
    bucket,
    buckets,
    flow_of,
    key4,
    packet4,
    packets,
    tag_of,
    wait,
)
from frames import ICMP, IPV4, IPV6, TCP, UDP, ethernet, icmp, ipv4, ipv6, tcp, udp

from sensor import abi
from sensor.abi import Counter, Verdict
from sensor.capture.flow_table import FlowKey, KernelFlows, flow_key
from sensor.capture.program import Program
from sensor.capture.ring_set import RingSet
from sensor.capture.syscalls import prog_test_run

pytestmark = pytest.mark.kernel


def any_endpoint(rng: random.Random, version: int) -> tuple[str, int]:
    """Draw an address and a port, from so few that some are equal and many share their first bytes."""
    address = f"192.0.{rng.choice((2, 200))}.{rng.choice((1, 255))}"
    if version == 6:
        address = f"2001:db8:{rng.choice(('1', 'ff00'))}::{rng.choice(('1', 'ff:0'))}"
    return address, rng.choice((1, 256, 443, 65535))


def any_packet(rng: random.Random, tos_option: bool) -> tuple[bytes, FlowKey]:
    """Draw a frame, and return it with the expected key of its flow."""
    version, tos = rng.choice((4, 6)), rng.choice((0, 1, 0x10, 0xB8))
    tags = rng.choice(((), (0x8100,), (0x88A8, 0x8100)))
    (source, sport), (destination, dport) = any_endpoint(rng, version), any_endpoint(rng, version)
    protocol = rng.choice((TCP, UDP, ICMP))
    if protocol == TCP:
        inner = tcp(DATA, sport=sport, dport=dport)
    elif protocol == UDP:
        inner = udp(DATA, sport=sport, dport=dport)
    else:
        protocol, kind = (ICMP, 8) if version == 4 else (58, 128)
        inner, sport, dport = icmp(DATA, kind=kind), 0, 0
    if version == 4:
        frame = ethernet(IPV4, ipv4(protocol, inner, tos=tos, source=source, destination=destination), tags)
    else:
        packet = ipv6(protocol, inner, traffic_class=tos, source=source, destination=destination)
        frame = ethernet(IPV6, packet, tags)
    key = flow_key(
        protocol,
        ip_address(source),
        ip_address(destination),
        sport,
        dport,
        vlans=[101, 102][: len(tags)],
        service=tos if tos_option else 0,
    )
    return frame, key


@pytest.mark.parametrize("tos_option", [False, True])
def test_every_kind_of_packet_is_found_under_its_key(load: Open, tos_option: bool) -> None:
    """Kernel and Python compute the same key and hash, for both directions of a flow."""
    program, rng, model = load(flows=1 << 16, flow_has_tos=tos_option), random.Random(4), Tally[bytes]()
    for _ in range(3000):
        frame, key = any_packet(rng, tos_option)
        prog_test_run(program.fd, frame)
        model[key] += 1
        assert packets(program, key) == model[key], key
    assert max(model.values()) > 3


def variants() -> Iterator[list[tuple[bytes, FlowKey]]]:
    """Yield lists of packets whose keys differ in a single word, each list longer than the number of tags."""
    numbers = range(1, 400)
    low, high = ip_address("2001:db8::"), ip_address("ffff::")
    yield [flow_of(LOW, HIGH, port=number) for number in numbers]
    yield [later_fragment(protocol, service) for protocol in range(256) for service in (2, 4)]
    yield [flow_of(LOW, ip_address(HIGH) + number) for number in numbers]
    for shift in (0, 64):
        yield [flow_of(low + (number << shift), high) for number in numbers]
        yield [flow_of(low, high + (number << shift)) for number in numbers]


def later_fragment(protocol: int, service: int) -> tuple[bytes, FlowKey]:
    """Make a later fragment, which has no ports, and the key of its flow."""
    frame = ethernet(IPV4, ipv4(protocol, DATA, fragment=0x2001, tos=service))
    return frame, flow_key(protocol, ip_address(LOW), ip_address(HIGH), service=service)


def test_different_keys_are_never_confused(load: Open) -> None:
    """Two flows with the same set and tag are counted separately."""
    program = load(flows=ONE_SET, flow_has_tos=True)
    for flows in variants():
        tags = [tag_of(program, key) for _, key in flows]
        pairs = combinations(range(len(flows)), 2)
        one, other = next(pair for pair in pairs if len({tags[i] for i in pair}) == 1)
        for which in (one, other, one):
            prog_test_run(program.fd, flows[which][0])
        assert [packets(program, flows[which][1]) for which in (one, other)] == [2, 1]


def test_both_directions_are_one_flow(load: Open) -> None:
    """Both IP versions have one flow for both directions, and another flow for another tag or port."""
    program = load()
    forth, back = packet4(), packet4(443, 40000, source=HIGH, destination=LOW)
    for frame in (forth, back, back, forth):
        prog_test_run(program.fd, frame)
    for frame in (packet4(40001), ethernet(IPV4, ipv4(TCP, tcp(DATA, dport=443)), (0x8100,))):
        prog_test_run(program.fd, frame)
    assert packets(program, key4()) == 4
    assert key4() == key4(443, 40000, HIGH, LOW)
    for ends in ((LOW6, HIGH6, 1, 2), (HIGH6, LOW6, 2, 1)):
        source, destination, sport, dport = ends
        inner = tcp(DATA, sport=sport, dport=dport)
        prog_test_run(program.fd, ethernet(IPV6, ipv6(TCP, inner, source=source, destination=destination)))
    assert packets(program, flow_key(TCP, ip_address(HIGH6), ip_address(LOW6), 2, 1)) == 2


@pytest.mark.parametrize(("tos_option", "counted"), [(False, [4, 4]), (True, [2, 2])])
def test_type_of_service_separates_directions_with_the_option(
    load: Open, tos_option: bool, counted: list[int]
) -> None:
    """With `flow_has_tos`, packets with a type of service have a flow per direction; ECN is no part of it."""
    program = load(flow_has_tos=tos_option)
    forth, back = packet4(tos=0x20), packet4(443, 40000, tos=0x21, source=HIGH, destination=LOW)
    for frame in (forth, back, forth, back):
        prog_test_run(program.fd, frame)
    service = 0x20 if tos_option else 0
    keys = [
        flow_key(TCP, ip_address(LOW), ip_address(HIGH), 40000, 443, service=service),
        flow_key(TCP, ip_address(HIGH), ip_address(LOW), 443, 40000, service=service),
    ]
    assert [packets(program, key) for key in keys] == counted


def test_flow_numbers_reach_user_space(load: Open) -> None:
    """Each candidate has its number in its flow, and the time when the flow began."""
    program = load(depth=3)
    with closing(RingSet.open(1 << 16)) as rings:
        program.connect(rings.rings)
        for frame in [packet4()] * 2 + [packet4(443, 40000, source=HIGH, destination=LOW)] * 2 + [packet4(1)]:
            prog_test_run(program.fd, frame)
        seen = []
        while rings.waiting():
            for batch in rings.batches():
                assert batch.flow_packets is not None
                assert batch.flow_born_jiffies is not None
                seen += zip(batch.flow_packets.tolist(), batch.flow_born_jiffies.tolist(), strict=True)
    flow = program.flow(key4())
    assert flow is not None
    assert sorted(number for number, _ in seen) == [1, 1, 2, 3]
    assert {born for number, born in seen if number > 1} == {flow.born_jiffies}


def test_beyond_the_depth_only_http_passes(load: Open) -> None:
    """HTTP packets are counted too; without the exception they are cut like all others."""
    http = packet4(payload=b"GET /index.html HTTP/1.1")
    program = load(depth=3)
    assert buckets(program, packet4(), 5) == [CANDIDATE] * 3 + [CUT] * 2
    assert bucket(program, http) == CANDIDATE
    assert bucket(program, packet4()) == CUT
    assert packets(program, key4()) == 7
    program = load(depth=3, http_at_any_depth=False)
    assert buckets(program, http, 4) == [CANDIDATE] * 3 + [CUT]


def test_packets_without_payload_or_too_long_are_not_counted(load: Open) -> None:
    """They neither begin a flow nor get a number in one."""
    program = load(depth=2, longest=100)
    assert bucket(program, packet4(payload=b"")) == Counter.IGNORED_NO_PAYLOAD
    assert bucket(program, packet4(payload=bytes(101))) == Counter.IGNORED_LENGTH
    assert program.flow(key4()) is None
    assert buckets(program, packet4(payload=bytes(100)), 3) == [CANDIDATE, CANDIDATE, CUT]


def test_later_fragments_are_a_flow_without_ports(load: Open) -> None:
    """They are counted by addresses and protocol; a first fragment is counted by its ports too."""
    program = load(depth=2)
    later = packet4(fragment=0x2001)
    assert buckets(program, later, 3) == [CANDIDATE, CANDIDATE, CUT]
    assert bucket(program, packet4(fragment=0x2000)) == CANDIDATE
    assert (packets(program, key4(0, 0)), packets(program, key4())) == (3, 1)


def test_an_idle_flow_starts_again(load: Open) -> None:
    """It gets new numbers and a new start time, and loses its verdict."""
    program = load(depth=2, idle_s=1, life_s=3600)
    assert buckets(program, packet4(), 3)[-1] == CUT
    before = program.flow(key4())
    assert program.set_verdict(key4(), Verdict.DONE)
    wait(1.01)  # a little more than a second: the clock is slewed, jiffies are not
    assert buckets(program, packet4(), 3) == [CANDIDATE, CANDIDATE, CUT]
    after = program.flow(key4())
    assert before is not None
    assert after is not None
    assert after.born_jiffies > before.born_jiffies
    assert after.verdict == Verdict.NONE


def test_packets_keep_a_flow_alive_up_to_its_life(load: Open) -> None:
    """Cut packets keep it alive too. At the end of its life a flow starts again, however busy it is."""
    program, start = load(depth=2, idle_s=10, life_s=0.3), time.monotonic()
    assert buckets(program, packet4(), 2) == [CANDIDATE] * 2
    while bucket(program, packet4()) == CUT:
        assert time.monotonic() < start + 60
    assert time.monotonic() > start + 0.3
    assert packets(program, key4()) == 1


def test_the_least_recently_used_flow_gives_way(load: Open) -> None:
    """It is replaced if its set is full, in whichever way it is, and later counts from 1 again."""
    program, rng, order = load(flows=ONE_SET), random.Random(8), list[int]()
    for port in [*range(ONE_SET), *(rng.randrange(2 * ONE_SET) for _ in range(60))]:
        wait(0)
        prog_test_run(program.fd, packet4(port))
        known = port in order
        order = [one for one in order if one != port][-(ONE_SET if known else ONE_SET - 1) :] + [port]
        assert {p for p in range(2 * ONE_SET) if program.flow(key4(p))} == set(order)
        assert known == (packets(program, key4(port)) > 1)


def begun(program: Program) -> list[int]:
    """Return the number of flows that began, by their place."""
    counted: list[int] = program.counters_by_cpu()["flows"].sum(axis=(0, 1)).tolist()
    return counted


def test_new_flows_are_counted_by_their_place(load: Open) -> None:
    """Each is counted once: in unused places, those of live flows, its own, and those of old flows."""
    program = load(flows=ONE_SET, idle_s=1)
    for port in range(ONE_SET + 2):
        wait(0)  # so that all last times differ
        for _ in range(3):
            prog_test_run(program.fd, packet4(port))
    assert begun(program) == [ONE_SET, 0, 0, 2, 0]
    wait(1.1)
    prog_test_run(program.fd, packet4(ONE_SET))
    prog_test_run(program.fd, packet4(0))
    assert begun(program) == [ONE_SET, 1, 1, 2, 0]


@pytest.mark.parametrize("flows", [ONE_SET, 64, 4096])
def test_random_traffic_over_more_flows_than_fit(load: Open, flows: int) -> None:
    """No flow has a higher number than it had packets, and no flow is cut early."""
    program, rng, model = load(flows=flows, depth=4), random.Random(flows), Tally[int]()
    cut, before = 0, program.counters()[CUT][0]
    for _ in range(8000):
        port = int(rng.paretovariate(0.4)) % (4 * flows) + 1
        prog_test_run(program.fd, packet4(port, 7))
        model[port] += 1
        number = packets(program, key4(port, 7))
        assert 1 <= number <= model[port]
        is_cut = program.counters()[CUT][0] > before + cut
        assert is_cut == (number > 4)
        cut += is_cut
    assert cut > 500


def test_a_half_full_table_forgets_very_few_flows(load: Open) -> None:
    """With half as many flows as the table is made for, IPv4 and IPv6, almost all are remembered."""
    program, rng = load(flows=1 << 14), random.Random(2)
    keys = []
    for number in range(1 << 13):
        port, version = number + 1, rng.choice((4, 6))
        inner = tcp(DATA, sport=port, dport=9)
        source, destination = (LOW, HIGH) if version == 4 else (LOW6, HIGH6)
        prog_test_run(
            program.fd, ethernet(IPV4, ipv4(TCP, inner)) if version == 4 else ethernet(IPV6, ipv6(TCP, inner))
        )
        keys.append(flow_key(TCP, ip_address(source), ip_address(destination), port, 9))
    remembered = sum(packets(program, key) == 1 for key in keys)
    assert remembered > 0.97 * len(keys)  # by chance some sets get more flows than they hold: 0.8 % here


@pytest.mark.parametrize(("per_port", "per_address"), [(1, 0), (0, 1)], ids=["ports", "addresses"])
def test_flows_of_a_scan_spread_over_the_table(per_port: int, per_address: int) -> None:
    """Ports or addresses that count up are not crowded into few sets, whatever the seeds."""
    flows = KernelFlows(1 << 14)
    keys = [
        flow_key(TCP, ip_address(LOW), ip_address(HIGH) + number * per_address, 1 + number * per_port, 9)
        for number in range(1 << 13)
    ]
    forgotten = []
    for draw in range(30):
        rng = random.Random(draw)
        flows.seeds = [rng.getrandbits(64) for _ in flows.seeds]
        crowds = Tally(flows.hash(key) * flows.sets >> 32 for key in keys).values()
        forgotten.append(sum(crowd - ONE_SET for crowd in crowds if crowd > ONE_SET))
    flows.close()
    assert max(forgotten) < 0.02 * len(keys)


def test_memory_grows_with_the_number_of_flows(load: Open) -> None:
    """The memory of the table is proportional to the number of flows."""
    taken = [load(flows=flows).memory_bytes()["flows"] for flows in (1 << 13, 1 << 14, 1 << 15)]
    page = os.sysconf("SC_PAGE_SIZE")
    for (smaller, larger), flows in zip(pairwise(taken), (1 << 13, 1 << 14), strict=True):
        assert abs(larger - smaller - flows * abi.FLOW_SET.itemsize // abi.FLOW_WAYS) <= page
