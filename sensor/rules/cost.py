"""What rules cost: to compile, in memory, and a payload; runs in ``sensor rules stats``.

Compiling is measured by the clock, because it uses all processors; matching in CPU time, the least
of a few passes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sensor.model import Rule
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.matcher import Matcher
from sensor.rules.obstacles import Specimen

_PASSES = 3


@dataclass(frozen=True)
class Cost:
    """What a matcher takes."""

    compile_ms: float
    size_bytes: int
    """Of its databases."""
    payload_ns: float
    """A payload, on average."""
    hits: int
    """Matches in all payloads."""


def measure(rules: Iterable[Rule], subjects: Sequence[Specimen], http: HttpReading) -> Cost:
    """Measure the rules together; their regexes have been parsed before."""
    start_s = time.perf_counter()
    matcher = Matcher(rules, http)
    compile_ms = (time.perf_counter() - start_s) * 1e3
    passes = [_pass(matcher, subjects) for _ in range(_PASSES)]
    least_ns, hits = min(passes)
    return Cost(compile_ms, matcher.size_bytes, least_ns / len(subjects), hits)


def measure_each(
    rules: Iterable[Rule], subjects: Sequence[Specimen], http: HttpReading
) -> Iterator[tuple[Rule, Cost]]:
    """Measure each rule alone, by what it takes more than no rule at all."""
    idle = measure((), subjects, http)
    for rule in rules:
        cost = measure((rule,), subjects, http)
        payload_ns = max(0.0, cost.payload_ns - idle.payload_ns)
        yield rule, Cost(cost.compile_ms, cost.size_bytes, payload_ns, cost.hits)


def _pass(matcher: Matcher, subjects: Sequence[Specimen]) -> tuple[int, int]:
    """Match all payloads once: nanoseconds, and matches."""
    hits = 0
    start_ns = time.thread_time_ns()
    for payload, protocol, sport, dport in subjects:
        hits += len(matcher.match(payload, protocol, sport, dport))
    return time.thread_time_ns() - start_ns, hits
