"""The kernel decides like the plan, for every prefix and port."""

from __future__ import annotations

import os
import random
import struct
from collections import Counter as Tally
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sensor import abi
from sensor.capture.plan_maps import FirstStates, KernelPlan, PlanMaps
from sensor.capture.syscalls import prog_test_run
from sensor.config.settings import BUNDLED_RULES
from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.files.load import load_rules
from sensor.rules.prefilter import decision
from sensor.rules.prefilter.plan import OTHER, PORTS, Demand, Plan, demands
from sensor.rules.prefilter.prefix import WORD, Prefix
from sensor.rules.prefilter.tables import kernel_plan

pytestmark = pytest.mark.kernel(alone=False)

BPF = Path(__file__).parents[2] / "bpf"
PROTOCOLS = {TCP: TCP, UDP: UDP, OTHER: 1}
BY_RULES, HTTP, BY_PORTS = range(3)  # enum subject in judge_probe.c
PORT_REASONS = (abi.Counter.IGNORED_PROTOCOL, abi.Counter.IGNORED_PORT)
MOST_TRIED = 1500
"""Prefixes for which payloads are made in a round."""
FEW = [
    Rule(1, "service", "t", "n", "^SSH-", protocol=TCP),
    Rule(2, "service", "t", "n", r"^[\x00-\x03]\xff[\x80-\x85]", protocol=TCP, port=445),
    Rule(3, "service", "t", "n", "anywhere", port=7),
    Rule(4, "service", "t", "n", r"^\x00\x00\x00\x00\x00\x00\x00\x01", protocol=UDP, port=9),
]


class Judge:
    """The loaded ``judge_by_rules()`` of a plan. Each decision is also compared with ``judge_by_ports()``."""

    def __init__(self, plan: KernelPlan) -> None:
        os.environ["BCC_KERNEL_SOURCE"] = str(BPF)
        from bcc import BPF as Bcc  # noqa: N811 - the name of the class

        self._maps = PlanMaps(plan)
        probe = (Path(__file__).parent / "judge_probe.c").read_bytes()
        self._bpf = Bcc(text=probe, cflags=[f"-I{BPF}", "-Wall", "-Werror", *self._maps.flags()])
        self._fd = self._bpf.load_func(b"probe", Bcc.XDP).fd

    def close(self) -> None:
        """Close program and maps."""
        self._bpf.cleanup()
        self._maps.close()

    def ask(self, protocol: int, sport: int, dport: int, payload: bytes) -> abi.Counter:
        """Return the kernel's decision about a packet, and check that ``judge_by_ports()`` agrees."""
        by_rules, by_ports = (
            self._ask(payload, protocol, sport, dport, about) for about in (BY_RULES, BY_PORTS)
        )
        assert by_ports == (by_rules if by_rules in PORT_REASONS else abi.Counter.SUBMITTED)
        return abi.Counter(by_rules)

    def looks_like_http(self, payload: bytes) -> bool:
        """Return True if the kernel takes a payload for HTTP."""
        return bool(self._ask(payload, TCP, 0, 0, HTTP))

    def _ask(self, payload: bytes, protocol: int, sport: int, dport: int, about: int) -> int:
        word = payload[:WORD].ljust(WORD, b"\0")
        question = struct.pack(">8sIHHBB6x", word, 0, sport, dport, protocol, about)
        length = struct.pack("=I", len(payload))
        return prog_test_run(self._fd, question[:WORD] + length + question[WORD + len(length) :])


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
    judge, rng = Judge(kernel_plan(plan, RFC9110)), random.Random(7)
    ports = [0, 4, *(port for needs in plan.needs.values() for port in needs.ports)]
    prefixes = [
        one
        for needs in plan.needs.values()
        for asked in (needs.common, *needs.ports.values())
        for one in asked
    ]
    found = []
    for _ in range(rounds):
        for payload in payloads(rng.sample(prefixes, min(len(prefixes), MOST_TRIED)), rng):
            for protocol in PROTOCOLS.values():
                sport, dport = (rng.choice(ports), rng.choice(ports)) if protocol in (TCP, UDP) else (0, 0)
                kernels = judge.ask(protocol, sport, dport, payload)
                ours = plan.judge(protocol, sport, dport, payload)
                tally[kernels] += 1
                if kernels != ours:
                    found.append(
                        f"{protocol} {sport} {dport} {payload!r}: plan {ours.name}, kernel {kernels.name}"
                    )
    judge.close()
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


def many_demands(count: int) -> list[Demand]:
    """Return what rules of all kinds ask for, with prefixes of any shape."""
    rng = random.Random(5)
    found = []
    for number in range(count):
        protocol, port = rng.choice((TCP, UDP, None)), rng.choice((0, rng.randrange(1, 65536)))
        mask = int.from_bytes(rng.choices((0xFF, 0xDF, 0xF0, 0), (9, 4, 2, 1), k=WORD))
        prefixes = {
            Prefix(rng.getrandbits(64) & mask, mask, rng.choice((1, 8, 64, 1300)))
            for _ in range(rng.choice((1, 4)))
        }
        rule = Rule(number, "service", "t", "n", "x", protocol=protocol, port=port)
        found.append(Demand(rule, frozenset(prefixes)))
    return found


def test_agreement_with_thousands_of_rules() -> None:
    """The kernel is as exact as with few rules."""
    tally = Tally[abi.Counter]()
    plan = Plan.of(many_demands(2000))
    assert disagreements(plan, 1, tally) == []
    assert min(tally[abi.Counter.SUBMITTED], tally[abi.Counter.IGNORED_PREFIX]) > 5000


def test_full_tables_let_more_pass_and_never_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that does not fit into the tables is shortened as far as necessary."""
    plan, http = Plan.of(many_demands(2000)), RFC9110
    monkeypatch.setattr(decision, "_MOST_PREFIXES", len(kernel_plan(plan, http).prefixes) * 2 // 3)
    shortened = kernel_plan(plan, http)
    assert shortened.merged > 500
    judge, rng = Judge(shortened), random.Random(6)
    for payload in payloads(rng.sample(plan.needs[TCP].common.prefixes, 500), rng):
        if plan.judge(TCP, 1, 2, payload) == abi.Counter.SUBMITTED:
            assert judge.ask(TCP, 1, 2, payload) == abi.Counter.SUBMITTED
    others = Tally(judge.ask(TCP, 1, 2, rng.randbytes(100)) for _ in range(1000))
    assert others[abi.Counter.IGNORED_PREFIX] > 900
    judge.close()


@pytest.mark.parametrize("rules", [[], FEW])
def test_tables_of_zeroes_ignore_nothing(rules: list[Rule]) -> None:
    """Unfilled tables let every packet pass."""
    plan = kernel_plan(Plan.of(demands(rules, RFC9110)), RFC9110)
    zeroes = (np.zeros_like(table) for table in (plan.ports, plan.rows, plan.prefixes))
    judge = Judge(KernelPlan(plan.first, *zeroes))
    for protocol in (TCP, UDP):
        assert judge.ask(protocol, 1, 2, b"\xee" * 100) == abi.Counter.SUBMITTED
    judge.close()


def test_an_endless_decision_lets_packets_pass() -> None:
    """The program ends it, whatever is in the tables."""
    circle = abi.STATE_PREFIX
    prefixes = np.array([(1, 1, 1, circle)], abi.PLAN_PREFIX)
    ports = np.full((2, PORTS), circle, np.uint32)
    states = FirstStates(*[circle] * 4)
    judge = Judge(KernelPlan(states, ports, np.zeros(1, np.uint32), prefixes))
    assert judge.ask(TCP, 1, 2, b"\0") == abi.Counter.SUBMITTED
    judge.close()


def test_pass_all_ignores_nothing() -> None:
    """It submits every protocol, port and payload."""
    plan = Plan.pass_all()
    judge, rng = Judge(kernel_plan(plan, RFC9110)), random.Random(3)
    for protocol in range(256):
        payload = rng.randbytes(rng.randrange(1, 20))
        assert (
            judge.ask(protocol, 1, 2, payload) == plan.judge(protocol, 1, 2, payload) == abi.Counter.SUBMITTED
        )
    judge.close()


def test_agreement_on_what_looks_like_http() -> None:
    """The kernel recognises the same payloads as HTTP as the profile does."""
    judge = Judge(kernel_plan(Plan.pass_all(), RFC9110))
    texts = [text + b"xxxxxxxxxxxx" for text in RFC9110.beginnings]
    changed = [text[:i] + bytes([text[i] ^ 32]) + text[i + 1 :] for text in texts for i in range(9)]
    for text in texts + changed:
        for payload in (text, text[:10], text[:11]):
            assert judge.looks_like_http(payload) == RFC9110.matches(payload), payload
    judge.close()
