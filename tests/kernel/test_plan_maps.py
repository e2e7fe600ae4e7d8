"""Loaded programs and the plans they judge by: each has tables of its own, small and exact for many rules."""

from __future__ import annotations

import random
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import closing

import pytest

from sensor import abi
from sensor.capture.program import LoadedProgram, Program, ProgramOptions
from sensor.capture.syscalls import prog_test_run
from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.engine.matcher import Matcher
from sensor.rules.prefilter.plan import Plan, demands
from sensor.rules.prefilter.tables import kernel_plan
from tests.frames import IPV4, ethernet, ipv4, tcp, udp

pytestmark = pytest.mark.kernel(alone=False)

FOUND = abi.Counter.SUBMIT_FAILED
"""The bucket of candidates while no ring is open."""
OPTIONS = ProgramOptions(flows=1024)


def plan_of(texts: list[str]) -> Plan:
    """Return the plan of a rule per text with which payloads over TCP begin."""
    rules = (
        Rule(number, "service", "t", "n", f"(?-i)^{text}", protocol=TCP)
        for number, text in enumerate(texts, start=1)
    )
    return Plan.of(demands(rules, RFC9110))


def judged(
    program: Program,
    loaded: LoadedProgram,
    payload: bytes,
    protocol: int = TCP,
    sport: int = 1024,
    dport: int = 80,
) -> abi.Counter:
    """Return the bucket in which a program counts a frame with the payload."""
    before = program.counters()
    segment = (tcp if protocol == TCP else udp)(payload, sport=sport, dport=dport)
    prog_test_run(loaded.fd, ethernet(IPV4, ipv4(protocol, segment)))
    [bucket] = (
        bucket
        for bucket, counted in program.counters().items()
        if counted != before[bucket] and bucket != abi.Counter.SEEN
    )
    return bucket


@pytest.fixture
def program() -> Iterator[Program]:
    """Load the program with a plan for payloads that begin with ``old``."""
    with closing(Program(kernel_plan(plan_of(["old"]), RFC9110), OPTIONS)) as loaded:
        yield loaded


def test_two_programs_judge_by_their_own_plans(program: Program) -> None:
    """While rules are replaced, both are loaded; the old one ends with the last interface that leaves it."""
    old, new = program.loaded, program.compile(kernel_plan(plan_of(["new"]), RFC9110))
    for loaded, passing, ignored in ((old, b"old", b"new"), (new, b"new", b"old")):
        assert judged(program, loaded, passing) == FOUND
        assert judged(program, loaded, ignored) == abi.Counter.IGNORED_PREFIX
    program.use(new)
    assert judged(program, new, b"new") == FOUND


def test_the_memory_is_that_of_the_plan_in_use(program: Program) -> None:
    """With more rules, the tables of rows and prefixes are larger."""
    few = program.memory_bytes()
    texts = [f"{number:05}" for number in range(2000)]
    program.use(program.compile(kernel_plan(plan_of(texts), RFC9110)))
    many = program.memory_bytes()
    assert many["plan_ports"] == few["plan_ports"]
    assert many["plan_prefixes"] > few["plan_prefixes"] + 2000 * abi.PLAN_PREFIX.itemsize
    assert many["plan_rows"] > few["plan_rows"]
    assert sum(many[name] for name in many if name.startswith("plan_")) < 1 << 20


def mixed_rules(count: int) -> list[Rule]:
    """Return rules of both transports with distinct prefixes, some for a port, some in any case."""
    rng = random.Random(count)
    rules = []
    for number in range(1, count + 1):
        text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(4, 8)))
        at = rng.randrange(2, len(text))
        regex = rng.choice((f"^{text}", f"(?-i)^{text}", f"(?-i)^{text[:at]}[0-9]{text[at:]}"))
        protocol, port = rng.choice((TCP, UDP, None)), rng.choice((0, 0, rng.randrange(1, 65536)))
        rules.append(Rule(number, "service", "t", "n", regex, protocol=protocol, port=port))
    return rules


def packets_about(rules: list[Rule], count: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield packets that rules match, and others that differ in a byte, in length, or in a port."""
    rng = random.Random(7)
    for rule in rng.sample(rules, count):
        text = rule.regex.removeprefix("(?-i)").removeprefix("^").replace("[0-9]", "5").encode()
        near = text[:-1] + b"\xf0"
        for payload in (text, text.upper(), near, text[:-1], text + b" and more"):
            protocol = rule.protocol or rng.choice((TCP, UDP))
            for port in (rule.port or rng.randrange(1, 65536), rng.randrange(1, 65536)):
                yield payload, protocol, *rng.choice(((1024, port), (port, 1024)))


def test_ten_thousand_mixed_rules_are_judged_as_exactly_as_few() -> None:
    """No match is hidden, and all that no rule can match is ignored, also after the rules are replaced."""
    sets = {count: mixed_rules(count) for count in (500, 10_000)}
    plans = {count: Plan.of(demands(rules, RFC9110)) for count, rules in sets.items()}
    tables = {count: kernel_plan(plan, RFC9110) for count, plan in plans.items()}
    assert [table.merged for table in tables.values()] == [0, 0]
    ignored = {}
    with closing(Program(tables[500], OPTIONS)) as program:
        for count in (10_000, 500, 10_000):
            program.use(program.compile(tables[count]))
            buckets = Tally[abi.Counter]()
            packets = list(packets_about(sets[count], 150))
            matcher = Matcher(random.Random(7).sample(sets[count], 150))
            for packet in packets:
                bucket = judged(program, program.loaded, packet[0], *packet[1:])
                expected = plans[count].judge(*packet[1:], packet[0])
                assert bucket == (FOUND if expected == abi.Counter.SUBMITTED else expected), packet
                assert bucket == FOUND or not matcher.match(*packet), packet
                buckets[bucket] += 1
            ignored[count] = 1 - buckets[FOUND] / len(packets)
            assert buckets[FOUND] > 150
    assert ignored[10_000] > 0.9 * ignored[500] > 0.3


def test_ten_thousand_prefixes_are_all_told_apart() -> None:
    """Each is found, and a byte beside it is not."""
    rng = random.Random(1)
    texts = {"".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(10_000)}
    with closing(Program(kernel_plan(plan_of(sorted(texts)), RFC9110), OPTIONS)) as program:
        for text in rng.sample(sorted(texts), 500):
            assert judged(program, program.loaded, text.encode()) == FOUND
            near = text[:6] + rng.choice("ABC")
            assert judged(program, program.loaded, near.encode()) == abi.Counter.IGNORED_PREFIX
            assert judged(program, program.loaded, text[:6].encode()) == abi.Counter.IGNORED_PREFIX
