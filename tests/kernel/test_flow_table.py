"""Flows in the kernel: each is judged by its own entry, forgotten at worst, never cut too early."""

from __future__ import annotations

import os
import random
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from ipaddress import ip_address
from itertools import combinations, cycle, pairwise, product
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from frames import ICMP, IPV4, IPV6, TCP, UDP, ethernet, icmp, ipv4, ipv6, tcp, udp
from live import PASS_ALL

from sensor import abi
from sensor.abi import Counter, Verdict
from sensor.capture import program as kernel_program
from sensor.capture.flow_table import FlowKey, KernelFlows, flow_key
from sensor.capture.program import Options, Program
from sensor.capture.ring import RingSet
from sensor.capture.syscalls import prog_test_run

pytestmark = pytest.mark.kernel

CLOCK_MONOTONIC_COARSE = 6  # moves with the kernel's ticks; linux/time.h
BPF = Path(__file__).parents[2] / "bpf"
BARRIER = 'asm volatile("" ::: "memory")'
WRITE = "(*(volatile __typeof__(x) *)&(x) = (value))"
PAUSE = "for (int i_ = 0; i_ < 64 && bpf_get_prandom_u32() % 16; i_++);"
ONE_SET = abi.FLOW_WAYS
DATA = b"\x17\x03\x03 some data"
LOW, HIGH = "192.0.2.10", "198.51.100.20"
LOW6, HIGH6 = "2001:db8::10", "2001:db8:1::20"
Open = Callable[..., Program]


@pytest.fixture
def load() -> Iterator[Open]:
    """Load programs with options; all are closed at the end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            closing(Program(PASS_ALL, Options(**{"flows": 1024, **options})))
        )


def bucket(program: Program, frame: bytes) -> Counter:
    """Where a frame ends; candidates fail to be submitted, for there is no ring."""
    before = program.counters()
    prog_test_run(program.fd, frame)
    after = program.counters()
    [found] = [one for one in Counter if one != Counter.SEEN and after[one] != before[one]]
    return found


def buckets(program: Program, frame: bytes, times: int) -> list[Counter]:
    """Where the same frame ends again and again."""
    return [bucket(program, frame) for _ in range(times)]


CANDIDATE, CUT = Counter.SUBMIT_FAILED, Counter.IGNORED_FLOW


def packet4(sport: int = 40000, dport: int = 443, payload: bytes = DATA, **ip: Any) -> bytes:
    """A TCP segment over IPv4."""
    return ethernet(IPV4, ipv4(TCP, tcp(payload, sport=sport, dport=dport), **ip))


def key4(sport: int = 40000, dport: int = 443, source: str = LOW, destination: str = HIGH) -> FlowKey:
    """Its flow's key."""
    return flow_key(TCP, ip_address(source), ip_address(destination), sport, dport)


def packets(program: Program, key: FlowKey) -> int:
    """How many packets the kernel has counted; 0 where it remembers nothing."""
    flow = program.flow(key)
    return flow.packets if flow else 0


def wait(seconds: float) -> None:
    """Return when the kernel's ticks have moved on by so much."""
    end_ns = time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) + round(seconds * 10**9)
    while time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) <= end_ns:
        time.sleep(0.001)


def any_endpoint(rng: random.Random, version: int) -> tuple[str, int]:
    """An address and a port, close enough to others that some are equal and many share their first bytes."""
    address = f"192.0.{rng.choice((2, 200))}.{rng.choice((1, 255))}"
    if version == 6:
        address = f"2001:db8:{rng.choice(('1', 'ff00'))}::{rng.choice(('1', 'ff:0'))}"
    return address, rng.choice((1, 256, 443, 65535))


def any_packet(rng: random.Random, tos_option: bool) -> tuple[bytes, FlowKey]:
    """A frame, and what the key of its flow has to be."""
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
    """Kernel and Python make the same key and hash; packets are counted to it in both directions."""
    program, rng, model = load(flows=1 << 16, flow_has_tos=tos_option), random.Random(4), Tally[bytes]()
    for _ in range(3000):
        frame, key = any_packet(rng, tos_option)
        prog_test_run(program.fd, frame)
        model[key.tobytes()] += 1
        assert packets(program, key) == model[key.tobytes()], key
    assert max(model.values()) > 3


def variants() -> Iterator[list[tuple[bytes, FlowKey]]]:
    """Packets of flows whose keys differ in one word; of each word in turn, and more than there are tags."""
    numbers = range(1, 400)
    low, high = ip_address("2001:db8::"), ip_address("ffff::")
    yield [flow_of(LOW, HIGH, port=number) for number in numbers]
    yield [later_fragment(protocol, service) for protocol in range(256) for service in (2, 4)]
    yield [flow_of(LOW, ip_address(HIGH) + number) for number in numbers]
    for shift in (0, 64):
        yield [flow_of(low + (number << shift), high) for number in numbers]
        yield [flow_of(low, high + (number << shift)) for number in numbers]


def flow_of(source: Any, destination: Any, port: int = 1) -> tuple[bytes, FlowKey]:
    """A frame and its flow's key."""
    source, destination = ip_address(source), ip_address(destination)
    inner, ends = tcp(DATA, sport=port, dport=9), {"source": str(source), "destination": str(destination)}
    packet = (ipv4 if source.version == 4 else ipv6)(TCP, inner, **ends)
    return ethernet(IPV4 if source.version == 4 else IPV6, packet), flow_key(
        TCP, source, destination, port, 9
    )


def later_fragment(protocol: int, service: int) -> tuple[bytes, FlowKey]:
    """A frame without ports, whatever its protocol, and its flow's key."""
    frame = ethernet(IPV4, ipv4(protocol, DATA, fragment=0x2001, tos=service))
    return frame, flow_key(protocol, ip_address(LOW), ip_address(HIGH), service=service)


def tag_of(program: Program, key: FlowKey) -> int:
    """What the kernel looks for a flow by, inside a set."""
    return program._shared.flows.hash(key) & 0xFF or 1


def test_keys_that_differ_anywhere_are_never_mixed(load: Open) -> None:
    """Not even where set and tag are the same."""
    program = load(flows=ONE_SET, flow_has_tos=True)
    for flows in variants():
        tags = [tag_of(program, key) for _, key in flows]
        pairs = combinations(range(len(flows)), 2)
        one, other = next(pair for pair in pairs if len({tags[i] for i in pair}) == 1)
        for which in (one, other, one):
            prog_test_run(program.fd, flows[which][0])
        assert [packets(program, flows[which][1]) for which in (one, other)] == [2, 1]


def test_both_directions_are_one_flow(load: Open) -> None:
    """Over IPv4 and IPv6; another tag, port or protocol is another flow."""
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
def test_a_service_parts_directions_where_it_is_asked_for(
    load: Open, tos_option: bool, counted: list[int]
) -> None:
    """Of packets with a type of service, if flows have one at all; congestion bits are none."""
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


def test_numbers_reach_user_space(load: Open) -> None:
    """With each candidate: which packet of its flow it is, and when that began."""
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


def test_behind_the_depth_only_http_passes(load: Open) -> None:
    """And that counts, too; without the exception it is cut like all else."""
    http = packet4(payload=b"GET /index.html HTTP/1.1")
    program = load(depth=3)
    assert buckets(program, packet4(), 5) == [CANDIDATE] * 3 + [CUT] * 2
    assert bucket(program, http) == CANDIDATE
    assert bucket(program, packet4()) == CUT
    assert packets(program, key4()) == 7
    program = load(depth=3, http_at_any_depth=False)
    assert buckets(program, http, 4) == [CANDIDATE] * 3 + [CUT]


def test_what_has_no_payload_or_is_too_long_is_not_counted(load: Open) -> None:
    """Neither begins a flow, nor is a number of it."""
    program = load(depth=2, longest=100)
    assert bucket(program, packet4(payload=b"")) == Counter.IGNORED_NO_PAYLOAD
    assert bucket(program, packet4(payload=bytes(101))) == Counter.IGNORED_LENGTH
    assert program.flow(key4()) is None
    assert buckets(program, packet4(payload=bytes(100)), 3) == [CANDIDATE, CANDIDATE, CUT]


def test_later_fragments_are_a_flow_without_ports(load: Open) -> None:
    """Of their addresses and protocol; the first fragment belongs to its ports."""
    program = load(depth=2)
    later = packet4(fragment=0x2001)
    assert buckets(program, later, 3) == [CANDIDATE, CANDIDATE, CUT]
    assert bucket(program, packet4(fragment=0x2000)) == CANDIDATE
    assert (packets(program, key4(0, 0)), packets(program, key4())) == (3, 1)


def test_an_idle_flow_begins_anew(load: Open) -> None:
    """Its number, its birth and its verdict."""
    program = load(depth=2, idle_s=1, life_s=3600)
    assert buckets(program, packet4(), 3)[-1] == CUT
    before = program.flow(key4())
    assert program.set_verdict(key4(), Verdict.DONE)
    wait(1.01)  # some ticks more: the clock is slewed, they are not
    assert buckets(program, packet4(), 3) == [CANDIDATE, CANDIDATE, CUT]
    after = program.flow(key4())
    assert before is not None
    assert after is not None
    assert after.born_jiffies > before.born_jiffies
    assert after.verdict == Verdict.NONE


def test_packets_keep_a_flow_alive_up_to_its_life(load: Open) -> None:
    """Cut-off ones do, too; then it begins anew however busy it is."""
    program, start = load(depth=2, idle_s=10, life_s=0.3), time.monotonic()
    assert buckets(program, packet4(), 2) == [CANDIDATE] * 2
    while bucket(program, packet4()) == CUT:
        assert time.monotonic() < start + 60
    assert time.monotonic() > start + 0.3
    assert packets(program, key4()) == 1


def test_the_least_recently_used_flow_gives_way(load: Open) -> None:
    """Of a set that is full, whichever way it stands in; then it counts from 1."""
    program, rng, order = load(flows=ONE_SET), random.Random(8), list[int]()
    for port in [*range(ONE_SET), *(rng.randrange(2 * ONE_SET) for _ in range(60))]:
        wait(0)
        prog_test_run(program.fd, packet4(port))
        known = port in order
        order = [one for one in order if one != port][-(ONE_SET if known else ONE_SET - 1) :] + [port]
        assert {p for p in range(2 * ONE_SET) if program.flow(key4(p))} == set(order)
        assert known == (packets(program, key4(port)) > 1)


def begun(program: Program) -> list[int]:
    """Flows that began, by the place they were given."""
    counted: list[int] = program.counters_by_cpu()["flows"].sum(axis=(0, 1)).tolist()
    return counted


def test_where_flows_begin_is_counted(load: Open) -> None:
    """Each once: in places that are unused, then of flows that live; its own or another's that is over."""
    program = load(flows=ONE_SET, idle_s=1)
    for port in range(ONE_SET + 2):
        wait(0)  # by the kernel's clock all of them are different then
        for _ in range(3):
            prog_test_run(program.fd, packet4(port))
    assert begun(program) == [ONE_SET, 0, 0, 2, 0]
    wait(1.1)
    prog_test_run(program.fd, packet4(ONE_SET))
    prog_test_run(program.fd, packet4(0))
    assert begun(program) == [ONE_SET, 1, 1, 2, 0]


@pytest.mark.parametrize("flows", [ONE_SET, 64, 4096])
def test_random_traffic_over_more_flows_than_fit(load: Open, flows: int) -> None:
    """No flow has a higher number than its packets, and none is cut before its time."""
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


def test_a_table_with_room_forgets_nothing(load: Open) -> None:
    """Half as many flows as it was made for, IPv4 and IPv6, are all but for a few still there."""
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
    assert remembered > 0.97 * len(keys)  # by chance some sets get more than they hold: of these, 0.8 %


@pytest.mark.parametrize(("per_port", "per_address"), [(1, 0), (0, 1)], ids=["ports", "addresses"])
def test_flows_of_a_scan_spread_over_the_table(per_port: int, per_address: int) -> None:
    """Ports or addresses that count up do not crowd into few sets, whatever seeds are drawn."""
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


def test_nothing_more_of_a_flow_that_is_done(load: Open) -> None:
    """Not even HTTP; other flows go on, and so does this one when it was taken back."""
    program, http = load(), packet4(payload=b"GET /index.html HTTP/1.1")
    assert not program.set_verdict(key4(), Verdict.DONE)
    assert bucket(program, packet4()) == CANDIDATE
    assert program.set_verdict(key4(), Verdict.DONE)
    assert buckets(program, http, 2) == [CUT] * 2
    assert bucket(program, packet4(1)) == CANDIDATE
    assert program.set_verdict(key4(), Verdict.NONE)
    assert bucket(program, packet4()) == CANDIDATE
    assert packets(program, key4()) == 4


def test_every_frame_of_a_flow_that_is_followed(load: Open) -> None:
    """As many as were asked for, behind the depth and without payload; then again, from where it is."""
    program, ack = load(depth=1), packet4(payload=b"")
    later = time.monotonic_ns() + 3600 * 10**9
    assert buckets(program, packet4(), 2) == [CANDIDATE, CUT]
    for frames in (3, 2):
        assert program.set_verdict(key4(), Verdict.FOLLOW, frames=frames, until_ns=later)
        sent = [packet4(), ack, packet4(443, 40000, source=HIGH, destination=LOW)][:frames]
        assert [bucket(program, frame) for frame in sent] == [CANDIDATE] * frames
        assert bucket(program, ack) == Counter.IGNORED_NO_PAYLOAD
        assert bucket(program, packet4()) == CUT
    assert bucket(program, packet4(1, payload=b"")) == Counter.IGNORED_NO_PAYLOAD


def test_a_flow_is_followed_up_to_a_time(load: Open) -> None:
    """Not beyond it, however many frames are left."""
    program = load(depth=1)
    bucket(program, packet4())
    until = time.monotonic_ns() + 200_000_000
    assert program.set_verdict(key4(), Verdict.FOLLOW, frames=1 << 30, until_ns=until)
    followed = bucket(program, packet4()), time.monotonic_ns() < until
    assert followed in ((CANDIDATE, True), (CUT, False))
    while time.monotonic_ns() <= until:
        time.sleep(0.001)
    assert bucket(program, packet4()) == CUT


def test_a_verdict_ends_with_its_flow(load: Open) -> None:
    """One that gave way to others begins without; the one in its place never had one."""
    program = load(flows=ONE_SET)
    bucket(program, packet4())
    assert program.set_verdict(key4(), Verdict.DONE)
    for port in range(1, ONE_SET + 1):
        wait(0)
        assert bucket(program, packet4(port)) == CANDIDATE
    assert program.flow(key4()) is None
    assert buckets(program, packet4(), 2) == [CANDIDATE] * 2


def test_flows_and_verdicts_outlive_a_change_of_rules(load: Open) -> None:
    """The new program counts on in the same table."""
    program = load(depth=4)
    buckets(program, packet4(), 3)
    bucket(program, packet4(1))
    program.set_verdict(key4(1), Verdict.DONE)
    program.use(program.compile(PASS_ALL))
    assert buckets(program, packet4(), 2) == [CANDIDATE, CUT]
    assert bucket(program, packet4(1)) == CUT


def test_memory_grows_with_the_flows(load: Open) -> None:
    """And with them alone."""
    taken = [load(flows=flows).memory_bytes()["flows"] for flows in (1 << 13, 1 << 14, 1 << 15)]
    page = os.sysconf("SC_PAGE_SIZE")
    for (smaller, larger), flows in zip(pairwise(taken), (1 << 13, 1 << 14), strict=True):
        assert abs(larger - smaller - flows * abi.FLOW_SET.itemsize // abi.FLOW_WAYS) <= page


@contextmanager
def hammered(program: Program, frame: bytes, cpus: Iterable[int], times: int) -> Iterator[list[BaseProcess]]:
    """Run the program over one frame, on some CPUs at once, without a pause; stopped at the end."""

    def hammer(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        prog_test_run(program.fd, frame, times)

    processes = [get_context("fork").Process(target=hammer, args=(cpu,)) for cpu in cpus]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.fixture
def cpus() -> Iterator[list[int]]:
    """The CPUs there are, two or more; the test's own process is put back onto all of them."""
    found = os.sched_getaffinity(0)
    if len(found) < 2:
        pytest.skip("one CPU has nobody to race with")
    yield sorted(found)
    os.sched_setaffinity(0, found)


def test_no_flow_is_cut_early_whatever_other_processors_do(load: Open, cpus: list[int]) -> None:
    """A long flow and thousands of short ones push each other out of one set: no short one is ever cut."""
    depth, (own, *others) = 4, cpus
    program = load(flows=ONE_SET, depth=depth)
    os.sched_setaffinity(0, {own})
    with hammered(program, packet4(), others, 1 << 30) as processes:
        for number in range(1, 20_000):
            frame = packet4(source=f"10.0.{number >> 8}.{number & 255}")
            for _ in range(depth):
                prog_test_run(program.fd, frame)
        assert all(process.is_alive() for process in processes)
    by_cpu = program.counters_by_cpu()["of"]["frames"][0]
    assert by_cpu[own, CUT] == 0
    assert by_cpu[others, CUT].min() > 0
    assert by_cpu[others, CANDIDATE].min() > 100 * depth  # it was pushed out all the time
    assert_sound(program)


def test_a_key_that_is_half_written_is_nobody_s(
    load: Open, cpus: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flows take the place of one that is done; on their way each looks like the flow that goes on beside.

    The kernel's code is the same but for its steps, between which it pauses for some time or other.
    """
    source = tmp_path / "bpf"
    copytree(BPF, source)
    text = (source / "flow.h").read_text()
    for step in (BARRIER, WRITE):
        assert text.count(step) == 1
        text = text.replace(step, f"({{ {PAUSE} {step}; }})")
    (source / "flow.h").write_text(text)
    monkeypatch.setattr(kernel_program, "_SOURCE", source)
    program, (own, *others) = load(flows=ONE_SET), cpus
    os.sched_setaffinity(0, {own})
    alike = (f"192.{a}.{b}.10" for a, b in product(range(1, 256), repeat=2))  # the lower endpoint, like LOW
    done = next(one for one in alike if tag_of(program, key4(source=one)) == tag_of(program, key4()))
    with hammered(program, packet4(), others, 1 << 30) as processes:
        for _ in range(2000):
            prog_test_run(program.fd, packet4(source=done))
            program.set_verdict(key4(source=done), Verdict.DONE)
            for port in range(1, 2 * ONE_SET):
                prog_test_run(program.fd, packet4(port))
        assert all(process.is_alive() for process in processes)
    by_cpu = program.counters_by_cpu()["of"]["frames"][0]
    assert by_cpu[others, CUT].sum() == 0
    assert_sound(program)


def test_a_flow_on_several_processors_has_no_more_packets_than_were_sent(load: Open, cpus: list[int]) -> None:
    """Of counts that meet some get lost, and nothing else."""
    program, times = load(), 2_000_000
    with hammered(program, packet4(), cpus, times) as processes:
        for process in processes:
            process.join()
            assert process.exitcode == 0
    assert times // 2 < packets(program, key4()) <= times * len(cpus)
    assert_sound(program)


def test_verdicts_are_given_while_packets_are_counted(load: Open, cpus: list[int]) -> None:
    """No packet is lost by that, and no verdict."""
    program, times = load(), 3_000_000
    bucket(program, packet4())
    with hammered(program, packet4(), cpus[:1], times) as [process]:
        for verdict in cycle((Verdict.DONE, Verdict.NONE)):
            assert program.set_verdict(key4(), verdict)
            flow = program.flow(key4())
            assert flow is not None
            assert flow.verdict == verdict
            if not process.is_alive():
                break
        assert process.exitcode == 0
    assert packets(program, key4()) == 1 + times


def assert_sound(program: Program) -> None:
    """No writer is left behind, and no key half written: the table goes on working."""
    table = program._shared.flows._table
    assert not table["writers"].any()
    assert not (table["flows"]["version"] % 2).any()
    assert buckets(program, packet4(9, 9), 2) == [CANDIDATE] * 2
    assert packets(program, key4(9, 9)) == 2
