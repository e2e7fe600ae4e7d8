"""Payloads for floods: one that many rules match, and one that is costly although none does.

Runs in ``sensor bench overload``.
"""

from __future__ import annotations

import time
from random import Random

from sensor.bench.costly_texts import beginnings, costly_texts
from sensor.bench.payload_search import PayloadSearch
from sensor.protocols import TCP
from sensor.rules.cost import batch_of
from sensor.rules.engine.expression import expression
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.witness import witness_texts
from sensor.rules.obstacles import Specimen

PAYLOAD_BYTES = 1400
PORTS = 40_000, 80
"""Client and server."""
TRIALS = 1000
"""Payloads tried in the search for one that costs much and that no rule matches."""
_ROUNDS = 3


def payload_with_matches(matcher: Matcher) -> bytes:
    """Return a request that holds a witness text of as many rules as fit, the shortest texts first."""
    texts = [
        min(found, key=len)
        for rule in matcher.rules
        if rule.protocol in (None, TCP) and (found := witness_texts(expression(rule.regex).tree))
    ]
    payload = b"GET /"
    for text in sorted(set(texts), key=lambda text: (len(text), text)):
        if len(payload) + len(text) < PAYLOAD_BYTES:
            payload += text + b" "
    return payload


def payload_without_match(matcher: Matcher, rng: Random, trials: int = TRIALS) -> bytes:
    """Return the dearest payload that a search finds among those that no rule matches."""
    texts = costly_texts(matcher.rules, TCP, rng, is_http=True)

    def cost(payload: bytes) -> float:
        took_us, matches = match_us(matcher, payload)
        return 0.0 if matches else took_us

    starts = beginnings(matcher.http, is_http=True)
    search = PayloadSearch(cost, PAYLOAD_BYTES, texts, starts, rng)
    return search.run(trials).payload(PAYLOAD_BYTES)


def match_us(matcher: Matcher, payload: bytes) -> tuple[float, int]:
    """Return the CPU time of matching a payload in microseconds, the least of a few, and its matches."""
    buffer, payloads = batch_of([Specimen(payload, TCP, *PORTS)], matcher.http)
    least = float("inf")
    for _ in range(_ROUNDS):
        start_ns = time.thread_time_ns()
        matches = matcher.matches(buffer, payloads)
        least = min(least, (time.thread_time_ns() - start_ns) / 1e3)
    return least, len(matches.rule)
