"""Texts that an expression is likely to match, and packets for rules; with near misses. Seeded."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import numpy as np

from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.matcher import Payloads
from sensor.rules.prefilter.prefix import WORD
from sensor.rules.regex.parser import parse
from sensor.rules.regex.tree import Bytes, Choice, Group, Look, Node, Repeat, Sequence

Packet = tuple[bytes, int, int, int]
"""Payload, protocol, ports."""
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
"""Expressions whose prefixes are easy to get wrong."""
_PRINTABLE = frozenset(range(0x20, 0x7F))


def sample(node: Node, rng: random.Random) -> bytes:
    """Return a text that the node matches, ignoring positions and lookarounds."""
    match node:
        case Bytes(values):
            usual = sorted(values & _PRINTABLE if rng.random() < 0.9 else values) or sorted(values)
            return bytes([rng.choice(usual)]) if usual else b""
        case Sequence(nodes):
            return b"".join(sample(inner, rng) for inner in nodes)
        case Choice(nodes):
            return sample(rng.choice(nodes), rng)
        case Group(_, inner):
            return sample(inner, rng)
        case Repeat(inner, least, most):
            limit = least + rng.choice((0, 0, 1, 2, 5, 20))
            times = rng.randint(least, limit if most is None else min(most, limit))
            return b"".join(sample(inner, rng) for _ in range(times))
        case Look():
            return sample(node.node, rng) if rng.random() < 0.2 else b""
        case _:
            return b""


def mutated(text: bytes, rng: random.Random) -> bytes:
    """Return the text with a few bytes changed, dropped or doubled."""
    data = bytearray(text)
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[at:at] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randint(1, 4)]
            case 2:
                data[at:at] = data[at : at + rng.randint(1, 20)]
            case 3:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 4:
                data[at:at] = rng.choice((b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\0"))
            case 5:
                data[at : at + 8] = data[at : at + 8].swapcase()
    return bytes(data)


def tricky_rules() -> list[Rule]:
    """Return a rule per expression: plain, for HTTP and its parts, decoded, and for a UDP port."""
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
    """Return a payload with the text where the rule looks for it, most of the time."""
    if not rule.is_http and rng.random() < 0.9:
        return text if rng.random() < 0.7 else rng.randbytes(rng.randrange(12)) + text
    if rule.decode and rng.random() < 0.7:
        method = next(filter(text.startswith, http.beginnings), b"")  # an encoded method is not HTTP
        for _ in range(rng.randint(1, 2)):
            share, rest = rng.choice((0.1, 1.0)), text[len(method) :]
            text = method + b"".join(
                b"%%%02x" % byte if rng.random() < share else bytes([byte]) for byte in rest
            )
    start = rng.choice(http.beginnings)
    if rule.part == "body":
        return start + b"/ HTTP/1.1\r\nHost: a\r\n\r\n" + text
    if text.startswith(http.beginnings):
        return text + rng.choice((b"", b" / HTTP/1.1\r\n\r\n"))
    return start + rng.choice((b"", b"/", b"/ HTTP/1.1\r\n")) + text + rng.choice((b"", b"\r\n\r\nx"))


def damaged(payload: bytes, rng: random.Random) -> bytes:
    """Return the payload as it is, changed anywhere, or changed in the bytes that prefixes compare."""
    match rng.randrange(4):
        case 0 | 1:
            return payload
        case 2:
            return mutated(payload, rng)
        case _:
            return mutated(payload[:WORD], rng) + payload[WORD:]


def payloads(
    rules: Iterable[Rule], http: HttpReading, each: int, rng: random.Random
) -> Iterator[tuple[bytes, Rule]]:
    """Yield payloads made for each rule."""
    for rule in rules:
        tree: Node = parse(rule.regex.encode())
        for _ in range(each):
            yield damaged(wrapped(rule, sample(tree, rng), http, rng), rng), rule


def packets(rules: Iterable[Rule], http: HttpReading, each: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield payloads made for each rule, with the protocol and ports of their packets."""
    rng = random.Random(11)
    for payload, rule in payloads(rules, http, each, rng):
        ports = [rule.port if rng.random() < 0.95 else rng.randrange(65536), rng.randrange(65536)]
        rng.shuffle(ports)
        protocol = rule.protocol if rule.protocol and rng.random() < 0.95 else rng.choice(PROTOCOLS)
        yield payload, protocol, *(ports if protocol in (TCP, UDP) else (0, 0))


def payloads_of(
    packets: list[Packet], http: HttpReading, between: bytes = b"GET"
) -> tuple[memoryview, Payloads]:
    """Return the packets as a batch, with other bytes ``between`` the payloads."""
    sizes = np.array([len(payload) for payload, *_ in packets], np.int64)
    end = np.cumsum(sizes + len(between))
    return memoryview(b"".join(between + payload for payload, *_ in packets)), Payloads(
        end - sizes,
        end,
        np.array([protocol for _, protocol, _, _ in packets], np.uint8),
        np.array([sport for _, _, sport, _ in packets], np.uint16),
        np.array([dport for _, _, _, dport in packets], np.uint16),
        np.array([http.matches(payload) for payload, *_ in packets], np.bool_),
    )
