"""Random rules of all kinds, and packets that they match, nearly match, or should not match. Seeded."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import NamedTuple

from sensor.config.settings import BUNDLED_RULES
from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine.expression import expression
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.regex.parser import parse
from sensor.rules.regex.tree import Node, RegexError
from tests.rules.expressions import random_expression, random_text
from tests.rules.pcre_oracle import Pcre, PcreError
from tests.rules.samples import PROTOCOLS, TRICKY, damaged, sample, wrapped

SLICE = 2048
"""Longer payloads are scanned in slices of this size."""
_PORTS = (0, 0, 0, 0, 80, 443, 445, 1, 65535)
BYTES = (r"\x00", r"\xff", r"[\x00-\x03]", r"[\x80-\xff]", ".", "a", "B", "7", r"\s", r"\d", "[^a-f]", r"\W")
"""Expressions of one byte each."""
_REQUESTS = ("GET ", "GET /", "POST /a", "(?:GET|PUT) /", "HTTP/1", "[A-Z]+ /", "P(?:UT|OST) /?", r"\w+\s/\S")
"""Expressions with which requests and answers begin."""
_TOKENS = [*"()|?*+[]^$.a", "{2}", r"\b", r"\n", "(?:", "(?=", "(?!"]


class RandomRule(NamedTuple):
    """A rule that both the sensor and PCRE accept."""

    rule: Rule
    tree: Node
    """The expression as it was parsed."""
    pcre: Pcre


class Packet(NamedTuple):
    """The properties of a packet that rules look at."""

    payload: bytes
    protocol: int
    sport: int
    dport: int


@cache
def _bundled() -> list[str]:
    """Return the expressions of the sensor's own rules."""
    files = [json.loads(path.read_text()) for path in sorted(BUNDLED_RULES.glob("*.json"))]
    bodies = [body for file in files for body in file.values()]
    return [rule["regex"] for body in bodies for rule in body["rules"].values()]


def random_regex(rng: random.Random) -> str:
    """Return an expression of one of several kinds; not all of them are valid."""
    match rng.randrange(10):
        case 0:
            return _mutated(rng.choice(_bundled()), rng)
        case 1:
            return _mutated(rng.choice(TRICKY), rng)
        case 2 | 3:
            beginning = "".join(rng.choices(BYTES, k=rng.randint(1, 9)))
            return f"^{beginning}{random_expression(rng, depth=1)}"
        case 4 | 5:
            return f"^{rng.choice(_REQUESTS)}{rng.choice(('', random_expression(rng, depth=1)))}"
        case 6:
            return f"^(?:{random_expression(rng)})"
        case _:
            return random_expression(rng)


def _mutated(regex: str, rng: random.Random) -> str:
    """Return the expression with up to two tokens inserted or characters removed."""
    for _ in range(rng.randint(0, 2)):
        at = rng.randrange(len(regex) + 1)
        regex = regex[:at] + rng.choice((rng.choice(_TOKENS), "")) + regex[at + rng.randrange(2) :]
    return regex


def random_rules(rng: random.Random, count: int) -> list[RandomRule]:
    """Return rules with ids from 1 that both the sensor and PCRE accept."""
    found: list[RandomRule] = []
    while len(found) < count:
        regex = random_regex(rng)
        try:
            pcre = Pcre(regex.encode())
            expression(regex)
        except (PcreError, RegexError):
            continue
        fields = random_conditions(rng)
        rule = Rule(len(found) + 1, rng.choice(("service", "threat")), "t", "n", regex, **fields)
        found.append(RandomRule(rule, parse(regex.encode()), pcre))
    return found


def random_conditions(rng: random.Random) -> dict:
    """Return the fields of a rule that say which packets it looks at."""
    fields: dict = {"port": rng.choice(_PORTS)}
    if rng.random() < 0.4:
        fields["is_http"] = True
        fields["part"] = rng.choice(("total", "head", "body"))
        fields["decode"] = rng.choice((None, "url"))
        fields["protocol"] = rng.choice((None, TCP))
    else:
        fields["protocol"] = rng.choice((None, None, TCP, UDP))
    return fields


def random_packets(
    rules: list[RandomRule], http: HttpReading, rng: random.Random, count: int
) -> list[Packet]:
    """Return packets, most of which some rule matches or nearly matches."""
    return [_packet(rng.choice(rules), rules, http, rng) for _ in range(count)]


def _packet(one: RandomRule, rules: list[RandomRule], http: HttpReading, rng: random.Random) -> Packet:
    text = sample(one.tree, rng)
    if rng.random() < 0.2:
        text += sample(rng.choice(rules).tree, rng)
    if rng.random() < 0.3:
        text = random_text(rng) + text
    if rng.random() < 0.3:
        text += random_text(rng)
    payload = damaged(wrapped(one.rule, text, http, rng), rng)
    if one.rule.decode and rng.random() < 0.3:
        payload = payload[:8] + payload[8:].replace(b" ", b"+")
    if rng.random() < 0.05:
        payload = _padded(payload, rng)
    if rng.random() < 0.05:
        payload += rng.choice((b"%", b"%4", b"%a", b"+", b"\r\n\r"))
    ports = [one.rule.port if rng.random() < 0.9 else rng.choice(_PORTS), rng.randrange(65536)]
    rng.shuffle(ports)
    protocol = one.rule.protocol if one.rule.protocol and rng.random() < 0.9 else rng.choice(PROTOCOLS)
    return Packet(payload, protocol, *(ports if protocol in (TCP, UDP) else (0, 0)))


def _padded(payload: bytes, rng: random.Random) -> bytes:
    """Return the payload with so many bytes inside that it crosses the edge of a slice."""
    size = rng.choice((1, 2, 3)) * SLICE + rng.randint(-20, 20)
    at = rng.choice((rng.randrange(len(payload) + 1), min(len(payload), 12), len(payload)))
    filler = rng.choice((b" ", b"a", b"%41", b"\r\n", b"xyz "))
    return payload[:at] + (filler * size)[: max(0, size - len(payload))] + payload[at:]
