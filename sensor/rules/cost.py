"""Measure what rules cost: compile time, memory, and CPU time per payload. Runs in ``sensor rules stats``.

Compile time is wall-clock time, because compiling uses all processors. Matching is measured in CPU
time; the fastest of a few passes counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sensor.model import Rule
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.matcher import Matcher, Payloads
from sensor.rules.obstacles import Specimen

_PASSES = 3


@dataclass(frozen=True)
class Cost:
    """The cost of one matcher. The field names are those of the JSON output."""

    compile_ms: float
    size_bytes: int
    """Size of its databases."""
    payload_ns: float
    """CPU time per payload, on average."""
    hits: int
    """Number of matches in all payloads."""


def measure(rules: Iterable[Rule], specimens: Sequence[Specimen], http: HttpReading) -> Cost:
    """Measure the rules together. The time to parse their regexes is not included."""
    start_s = time.perf_counter()
    matcher = Matcher(rules, http)
    compile_ms = (time.perf_counter() - start_s) * 1e3
    buffer, payloads = batch_of(specimens, http)
    passes = [_pass(matcher, buffer, payloads) for _ in range(_PASSES)]
    least_ns, matches = min(passes)
    return Cost(compile_ms, matcher.size_bytes, least_ns / len(specimens), matches)


def measure_each(
    rules: Iterable[Rule], specimens: Sequence[Specimen], http: HttpReading
) -> Iterator[tuple[Rule, Cost]]:
    """Measure each rule alone; the cost of matching without rules is subtracted."""
    idle = measure((), specimens, http)
    for rule in rules:
        cost = measure((rule,), specimens, http)
        payload_ns = max(0.0, cost.payload_ns - idle.payload_ns)
        yield rule, Cost(cost.compile_ms, cost.size_bytes, payload_ns, cost.hits)


def batch_of(specimens: Sequence[Specimen], http: HttpReading) -> tuple[memoryview, Payloads]:
    """Return the specimens as a capture worker matches them: as one batch, for `Matcher.matches`."""
    texts, protocols, sports, dports = zip(*specimens, strict=True)
    sizes = np.array([len(text) for text in texts], np.int64)
    end = np.cumsum(sizes)
    return memoryview(b"".join(texts)), Payloads(
        end - sizes,
        end,
        np.array(protocols, np.uint8),
        np.array(sports, np.uint16),
        np.array(dports, np.uint16),
        np.array([http.matches(text) for text in texts], np.bool_),
    )


def _pass(matcher: Matcher, buffer: memoryview, payloads: Payloads) -> tuple[int, int]:
    """Match all payloads once; return the CPU time in nanoseconds and the number of matches."""
    matcher.batch_matcher  # noqa: B018 - load the databases before the clock starts
    start_ns = time.thread_time_ns()
    matches = matcher.matches(buffer, payloads)
    return time.thread_time_ns() - start_ns, len(matches.rule)
