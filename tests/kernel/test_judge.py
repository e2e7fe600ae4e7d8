"""The plan's C code decides like the plan itself, for every prefix and port."""

from __future__ import annotations

import os
import random
import struct
from collections import Counter as Tally
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor import abi
from sensor.capture.syscalls import prog_test_run
from sensor.config.settings import BUNDLED_RULES
from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.files.load import load_rules
from sensor.rules.prefilter.emit import c_code
from sensor.rules.prefilter.plan import MOST_PREFIXES, OTHER, UNKNOWN_CLASS, Demand, Plan, demands
from sensor.rules.prefilter.prefix import WORD, Prefix

pytestmark = pytest.mark.kernel(alone=False)

BPF = Path(__file__).parents[2] / "bpf"
PROTOCOLS = {TCP: TCP, UDP: UDP, OTHER: 1}
RULES, HTTP, PORTS = range(3)  # enum subject in judge_probe.c
BY_PORTS = (abi.Counter.IGNORED_PROTOCOL, abi.Counter.IGNORED_PORT)
FEW = [
    Rule(1, "service", "t", "n", "^SSH-", protocol=TCP),
    Rule(2, "service", "t", "n", r"^[\x00-\x03]\xff[\x80-\x85]", protocol=TCP, port=445),
    Rule(3, "service", "t", "n", "anywhere", port=7),
    Rule(4, "service", "t", "n", r"^\x00\x00\x00\x00\x00\x00\x00\x01", protocol=UDP, port=9),
]


class Judge:
    """The loaded ``judge_by_rules()`` of a plan. Each decision is also compared with ``judge_by_ports()``."""

    def __init__(self, plan: Plan) -> None:
        os.environ["BCC_KERNEL_SOURCE"] = str(BPF)
        from bcc import BPF as Bcc  # noqa: N811 - the name of the class

        probe = (Path(__file__).parent / "judge_probe.c").read_text()
        source = f'#include "abi.h"\n#include "parse.h"\n{c_code(plan, RFC9110)}{probe}'
        self.bpf = Bcc(text=source.encode(), cflags=[f"-I{BPF}", "-Wall", "-Werror"])
        self.fd = self.bpf.load_func(b"probe", Bcc.XDP).fd
        self.port_classes = plan.port_classes().tolist()

    def ask(self, protocol: int, sport: int, dport: int, payload: bytes) -> abi.Counter:
        """Return the kernel's decision about a packet."""
        word = payload[:WORD].ljust(WORD, b"\0")
        return self.ask_by_class(
            protocol, self.port_classes[sport], self.port_classes[dport], word, len(payload)
        )

    def ask_by_class(self, protocol: int, sport: int, dport: int, word: bytes, length: int) -> abi.Counter:
        """Return the kernel's decision by port classes, and check that ``judge_by_ports()`` agrees."""
        by_rules, by_ports = (
            prog_test_run(self.fd, struct.pack("=8sIHHBB6x", word, length, sport, dport, protocol, about))
            for about in (RULES, PORTS)
        )
        assert by_ports == (by_rules if by_rules in BY_PORTS else abi.Counter.SUBMITTED)
        return abi.Counter(by_rules)


def payloads(prefixes: list[Prefix], rng: random.Random) -> Iterator[bytes]:
    """Yield payloads for each prefix: fitting, wrong in one bit, too short, and random."""
    for value, mask, length in prefixes:
        fitting = value | rng.getrandbits(64) & ~mask
        for word in (value, fitting, fitting ^ 1 << rng.randrange(64), rng.getrandbits(64)):
            for size in (length, length - 1, rng.randrange(1, WORD + 4), 1400):
                if size > 0:
                    yield word.to_bytes(WORD, "little").ljust(size, b"\0")[:size]


def disagreements(plan: Plan, rounds: int, tally: Tally[abi.Counter]) -> list[str]:
    """Describe every packet that kernel and plan judge differently, trying many per prefix."""
    judge, rng = Judge(plan), random.Random(7)
    ports = [0, 4, *(port for needs in plan.needs.values() for port in needs.ports)]
    prefixes = [
        one
        for needs in plan.needs.values()
        for asked in (needs.common, *needs.ports.values())
        for one in asked
    ]
    found = []
    for _ in range(rounds):
        for payload in payloads(prefixes, rng):
            for protocol in PROTOCOLS.values():
                sport, dport = (rng.choice(ports), rng.choice(ports)) if protocol in (TCP, UDP) else (0, 0)
                kernels = judge.ask(protocol, sport, dport, payload)
                ours = plan.judge(protocol, sport, dport, payload)
                tally[kernels] += 1
                if kernels != ours:
                    found.append(
                        f"{protocol} {sport} {dport} {payload!r}: plan {ours.name}, kernel {kernels.name}"
                    )
    judge.bpf.cleanup()
    return found


def test_agreement_on_the_bundled_rules() -> None:
    """Fitting, near and random payloads on all kinds of ports get the same reason."""
    tally = Tally[abi.Counter]()
    assert disagreements(Plan.of(demands(load_rules(BUNDLED_RULES), RFC9110)), 6, tally) == []
    assert tally.total() > 100_000
    assert min(tally[abi.Counter.SUBMITTED], tally[abi.Counter.IGNORED_PREFIX]) > 10_000


def test_agreement_where_most_ports_are_free() -> None:
    """With few rules, every reason occurs, and both agree on it."""
    tally = Tally[abi.Counter]()
    assert disagreements(Plan.of(demands(FEW, RFC9110)), 200, tally) == []
    for reason in (abi.Counter.IGNORED_PROTOCOL, abi.Counter.IGNORED_PORT, abi.Counter.IGNORED_PREFIX):
        assert tally[reason] > 100


def test_agreement_with_thousands_of_rules() -> None:
    """The plan shortens prefixes that are too many for the kernel, and both still agree."""
    rng, tally = random.Random(5), Tally[abi.Counter]()
    asked = []
    for number in range(2000):
        protocol, port = rng.choice((TCP, UDP, None)), rng.choice((0, rng.randrange(1, 65536)))
        mask = int.from_bytes(rng.choices((0xFF, 0xDF, 0xF0, 0), (9, 4, 2, 1), k=WORD))
        found = {
            Prefix(rng.getrandbits(64) & mask, mask, rng.choice((1, 8, 64)))
            for _ in range(rng.choice((1, 4)))
        }
        rule = Rule(number, "service", "t", "n", "x", protocol=protocol, port=port)
        asked.append(Demand(rule, frozenset(found)))
    plan = Plan.of(asked)
    assert plan.size <= MOST_PREFIXES
    assert disagreements(plan, 1, tally) == []


@pytest.mark.parametrize("rules", [[], FEW])
def test_a_port_map_of_zeroes_ignores_nothing_that_rules_need(rules: list[Rule]) -> None:
    """An unfilled map lets every packet of a protocol with rules pass."""
    plan = Plan.of(demands(rules, RFC9110))
    judge = Judge(plan)
    for protocol in (TCP, UDP):
        reason = judge.ask_by_class(protocol, UNKNOWN_CLASS, UNKNOWN_CLASS, b"\xee" * 8, 100)
        assert reason == (abi.Counter.SUBMITTED if rules else abi.Counter.IGNORED_PROTOCOL)
    judge.bpf.cleanup()


def test_pass_all_ignores_nothing() -> None:
    """It submits every protocol, port and payload."""
    plan = Plan.pass_all()
    judge, rng = Judge(plan), random.Random(3)
    for protocol in range(256):
        payload = rng.randbytes(rng.randrange(1, 20))
        assert (
            judge.ask(protocol, 1, 2, payload) == plan.judge(protocol, 1, 2, payload) == abi.Counter.SUBMITTED
        )
    judge.bpf.cleanup()


def test_agreement_on_what_looks_like_http() -> None:
    """The kernel recognises the same payloads as HTTP as the profile does."""
    judge = Judge(Plan.pass_all())
    texts = [text + b"xxxxxxxxxxxx" for text in RFC9110.beginnings]
    changed = [text[:i] + bytes([text[i] ^ 32]) + text[i + 1 :] for text in texts for i in range(9)]
    for text in texts + changed:
        for payload in (text, text[:10], text[:11]):
            word = payload[:WORD].ljust(WORD, b"\0")
            seen = prog_test_run(judge.fd, struct.pack("=8sIHHBB6x", word, len(payload), 0, 0, TCP, HTTP))
            assert seen == RFC9110.matches(payload), payload
