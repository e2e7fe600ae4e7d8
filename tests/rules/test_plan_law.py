"""The law of the plan: what a rule hits, the kernel lets through.

Payloads are made from each rule's own expression, damaged, wrapped into HTTP and encoded; whatever
the matcher finds in them has to pass: by what its rule alone asks for, and by the plan of all rules.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from commands import write_rules
from samples import mutated, sample

from sensor import abi
from sensor.config import OWN_RULES
from sensor.model import Rule
from sensor.rules.http import LY_PROBE, RFC9110, HttpReading
from sensor.rules.load import load_rules
from sensor.rules.matcher import Matcher
from sensor.rules.pcre import parse
from sensor.rules.plan import TCP, UDP, Plan, demands
from sensor.rules.prefix import WORD, PrefixSet, word_of
from sensor.rules.regex import Node

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "fp-patterns"
PROTOCOLS = (TCP, TCP, UDP, UDP, 1, 58, 132)
TRICKY = [
    r"^(?:ab|c)?d{2,}x",
    r"(?:^|x)lazy",
    r"^(?:a{9}|[b-d]{0,3}e)f",
    r"^(?!GET)[A-Z]{3} /",
    r"^(?=P)\w+",
    r"(?<=ab)c",
    r"(?m)^line",
    r"(?-i)^Case",
    r"^\x00+\x01",
    r"^(?:\x00|\xff)(?:[\x10\x80]|z)",
    r"^.?.?.?.?.?.?.?.?.?tail",
    r"\Aab|\Gcd",
    r"^(?:one|two|three|four|five|six|seven|eight|nine|ten)(?:one|two|three|four|five|six|seven)",
    r"^a$",
    r"^(?:(?:x|y)*z|)+w",
    r"^\d{1,6}\x00ll",
    r"^(ab)+?c",
    r"^\bGET|^\Bé",
    r"^(?:GET|POST) /(?:ab|cd)",
]
"""Expressions whose beginnings are easily got wrong."""


def tricky_rules() -> list[Rule]:
    """Each expression on its own, in HTTP and its parts, decoded, on a port, over UDP."""
    kinds = [
        {},
        {"is_http": True},
        {"is_http": True, "part": "head"},
        {"is_http": True, "part": "body"},
        {"is_http": True, "part": "head", "decode": "url"},
        {"port": 80, "protocol": UDP},
    ]
    every = [(regex, kind) for regex in TRICKY for kind in kinds]
    return [Rule(i, "service", "t", "n", regex, **kind) for i, (regex, kind) in enumerate(every, 1)]


def wrapped(rule: Rule, text: bytes, http: HttpReading, rng: random.Random) -> bytes:
    """Put a text where the rule looks for it, most of the time."""
    if not rule.is_http and rng.random() < 0.9:
        return text if rng.random() < 0.7 else rng.randbytes(rng.randrange(12)) + text
    if rule.decode and rng.random() < 0.7:
        method = next(filter(text.startswith, http.beginnings), b"")  # no HTTP where that is encoded
        for _ in range(rng.randint(1, 2)):
            share, behind = rng.choice((0.1, 1.0)), text[len(method) :]
            text = method + b"".join(
                b"%%%02x" % byte if rng.random() < share else bytes([byte]) for byte in behind
            )
    start = rng.choice(http.beginnings)
    if rule.part == "body":
        return start + b"/ HTTP/1.1\r\nHost: a\r\n\r\n" + text
    if text.startswith(http.beginnings):
        return text + rng.choice((b"", b" / HTTP/1.1\r\n\r\n"))
    return start + rng.choice((b"", b"/", b"/ HTTP/1.1\r\n")) + text + rng.choice((b"", b"\r\n\r\nx"))


def damaged(payload: bytes, rng: random.Random) -> bytes:
    """Change nothing, something, or something at the start, where it counts."""
    match rng.randrange(4):
        case 0 | 1:
            return payload
        case 2:
            return mutated(payload, rng)
        case _:
            return mutated(payload[:WORD], rng) + payload[WORD:]


def packets(rules: Sequence[Rule], http: HttpReading, each: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Make payloads for every rule, with the protocol and ports of packets that carry them."""
    rng = random.Random(11)
    for rule in rules:
        tree: Node = parse(rule.regex.encode())
        for _ in range(each):
            payload = damaged(wrapped(rule, sample(tree, rng), http, rng), rng)
            ports = [rule.port if rng.random() < 0.95 else rng.randrange(65536), rng.randrange(65536)]
            rng.shuffle(ports)
            protocol = rule.protocol if rule.protocol and rng.random() < 0.95 else rng.choice(PROTOCOLS)
            yield payload, protocol, *(ports if protocol in (TCP, UDP) else (0, 0))


def hidden(rules: Iterable[Rule], http: HttpReading, each: int) -> tuple[list[str], int, int]:
    """Every hit that a plan hides; and how many payloads were made, and how many hit."""
    every = tuple(rules)
    matcher, asked = Matcher(every, http), demands(every, http)
    plan = Plan.of(asked)
    alone = {rule.rule_id: PrefixSet(prefixes) for rule, prefixes in asked}
    found, made, hit = [], 0, 0
    for payload, protocol, sport, dport in packets(every, http, each):
        matches = matcher.match(payload, protocol, sport, dport) if payload else ()
        made, hit = made + 1, hit + bool(matches)
        if matches and plan.judge(protocol, sport, dport, payload) != abi.Counter.SUBMITTED:
            found.append(f"plan: {protocol} {sport} {dport} {payload!r}")
        word = word_of(payload)
        found += [
            f"{rule.rule_id} {rule.regex}: {payload!r}"
            for rule in (match.rule for match in matches)
            if not alone[rule.rule_id].fits(word, len(payload))
        ]
    return found, made, hit


def test_no_hit_of_our_own_rules_is_hidden() -> None:
    """Each of them, in the default reading of HTTP."""
    found, made, hit = hidden(load_rules(OWN_RULES), RFC9110, 150)
    assert found == []
    assert made > 75_000
    assert hit > 0.4 * made


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="ly_probe's rules are not on this machine")
@pytest.mark.parametrize("http", [RFC9110, LY_PROBE], ids=["default", "ly_probe"])
def test_no_hit_of_ly_probes_rules_is_hidden(http: HttpReading) -> None:
    """Rules without ports and anchors among them."""
    found, made, hit = hidden(load_rules(REFERENCE, lenient=True), http, 100)
    assert found == []
    assert hit > 0.5 * made


def test_no_hit_of_a_few_rules_is_hidden(tmp_path: Path) -> None:
    """Where most protocols, ports and beginnings are ignored."""
    found, made, hit = hidden(load_rules(write_rules(tmp_path)), RFC9110, 500)
    assert found == []
    assert hit > 0.5 * made


@pytest.mark.parametrize("http", [RFC9110, LY_PROBE], ids=["default", "ly_probe"])
def test_no_hit_of_a_tricky_rule_is_hidden(http: HttpReading) -> None:
    """Optional parts, repeats, lookarounds, anchors in odd places, in every part of HTTP."""
    found, made, hit = hidden(tricky_rules(), http, 150)
    assert found == []
    assert hit > 0.3 * made
