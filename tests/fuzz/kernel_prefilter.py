"""The loaded program: it judges every frame as the plan does, and ignores none that a rule matches.

The program is the one that captures, with the plan of random rules. Frames are run through it by
BPF_PROG_TEST_RUN, and its counters say what became of them.
"""

from __future__ import annotations

import random
from collections import Counter as Tally
from collections import defaultdict
from contextlib import closing

from sensor import abi
from sensor.capture.program import Program, ProgramOptions
from sensor.capture.syscalls import prog_test_run
from sensor.decode import decode
from sensor.model import PacketStatus, Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import LY_PROBE, RFC9110
from sensor.rules.engine.matcher import Matcher
from sensor.rules.prefilter.plan import Plan, demands
from sensor.rules.prefilter.tables import kernel_plan
from sensor.rules.regex.parser import parse
from tests.fuzz.random_rules import BYTES, Packet, random_conditions, random_packets, random_rules
from tests.fuzz.rounds import Round
from tests.kernel.test_parse import batch_of
from tests.rules.samples import mutated, payloads_of, sample

from tests.frames import ICMP, ICMPV6, IPV4, IPV6, ethernet, icmp, ipv4, ipv6, tcp, udp  # isort: skip

FEW, MANY = 60, 400
"""Numbers of rules; many rules have plain prefixes."""
PACKETS = 5000
LONGEST = 1400
FOUND = abi.Counter.SUBMIT_FAILED
"""The bucket of frames that are submitted while no ring is open."""


def fuzz(one: Round) -> None:
    """Compare the program of a random rule set with its plan and its matcher."""
    rng = one.rng
    http = rng.choice((RFC9110, RFC9110, LY_PROBE))
    if rng.random() < 0.7:
        sampled = random_rules(rng, rng.randrange(1, FEW))
        rules, made = [each.rule for each in sampled], random_packets(sampled, http, rng, PACKETS)
    else:
        rules = [_plain_rule(number, rng) for number in range(1, MANY)]
        made = [_packet_of(rng.choice(rules), rng) for _ in range(PACKETS)]
    packets, frames = _framed(made, rng)
    plan = Plan.of(demands(rules, http))
    expected = defaultdict(list)
    for number, (payload, *rest) in enumerate(packets):
        bucket = plan.judge(*rest, payload)
        expected[FOUND if bucket == abi.Counter.SUBMITTED else bucket].append(number)
    matched = set(Matcher(rules, http).matches(*payloads_of(packets, http)).payload.tolist())
    with closing(Program(kernel_plan(plan, http), ProgramOptions(flows=1024))) as program:
        for bucket, numbers in expected.items():
            for number, seen in _others(program, [frames[number] for number in numbers], bucket):
                place = numbers[number]
                one.fault(
                    f"the plan says {bucket.name}, the kernel {seen.name}: {packets[place]}",
                    frame_bin=frames[place],
                    rules_txt="\n".join(map(str, rules)),
                )
    for number in matched.difference(expected[FOUND]):
        one.fault(f"the plan hides a match: {packets[number]}", rules_txt="\n".join(map(str, rules)))
    one.comparisons += len(packets) + len(matched)


def _plain_rule(number: int, rng: random.Random) -> Rule:
    regex = "^" + "".join(rng.choices(BYTES, k=rng.randint(1, 10)))
    return Rule(number, "service", "t", "n", regex, **random_conditions(rng))


def _packet_of(rule: Rule, rng: random.Random) -> Packet:
    text = mutated(sample(parse(rule.regex.encode()), rng), rng) + rng.randbytes(rng.choice((0, 3, 12)))
    protocol = rule.protocol or rng.choice((TCP, UDP, ICMP))
    return Packet(text, protocol, rule.port or rng.randrange(65536), rng.choice((rule.port, 80, 443)))


def _framed(packets: list[Packet], rng: random.Random) -> tuple[list[Packet], list[bytes]]:
    """Return the packets that have payload as they are decoded, and their frames."""
    frames = [_frame(packet, rng) for packet in packets]
    batch = batch_of(frames)
    columns = decode(batch)
    found, kept = [], []
    for number in (columns.status == PacketStatus.PAYLOAD).nonzero()[0].tolist():
        payload = bytes(batch.buffer[columns.payload_start[number] : columns.payload_end[number]])
        rest = (int(column[number]) for column in (columns.protocol, columns.sport, columns.dport))
        found.append(Packet(payload, *rest))
        kept.append(frames[number])
    return found, kept


def _frame(packet: Packet, rng: random.Random) -> bytes:
    payload = packet.payload[:LONGEST]
    version = rng.choice((4, 4, 6))
    match packet.protocol:
        case 6:
            segment = tcp(payload, sport=packet.sport, dport=packet.dport)
        case 17:
            segment = udp(payload, sport=packet.sport, dport=packet.dport)
        case 1 | 58:
            segment = icmp(payload)
        case _:
            segment = payload
    protocol = {1: ICMP, 58: ICMPV6}.get(packet.protocol, packet.protocol)
    tags = rng.choice(((), (), (0x8100,), (0x88A8, 0x8100)))
    inner = ipv4(protocol, segment) if version == 4 else ipv6(protocol, segment)
    return ethernet(IPV4 if version == 4 else IPV6, inner, tags)


def _others(program: Program, frames: list[bytes], bucket: abi.Counter) -> list[tuple[int, abi.Counter]]:
    """Return the frames that the program counts in another bucket, with that bucket."""
    if not _counted(program, frames).keys() - {bucket}:
        return []
    return [
        (number, other)
        for number, frame in enumerate(frames)
        for other in _counted(program, [frame]).keys() - {bucket}
    ]


def _counted(program: Program, frames: list[bytes]) -> Tally[abi.Counter]:
    """Run the program on frames, and return their number by bucket."""
    before = program.counters()
    for frame in frames:
        prog_test_run(program.fd, frame)
    after = program.counters()
    counted = Tally({one: after[one][0] - before[one][0] for one in abi.Counter})
    assert counted.pop(abi.Counter.SEEN) == len(frames)
    return +counted
