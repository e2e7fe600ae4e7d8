"""The most that a stranger's packet can cost a worker. Runs in ``sensor bench match``.

Searches, per transport and with and without HTTP, for the payload that costs most CPU time with these rules,
and measures the dearest of each size as a whole packet: decoding, flows, matching and evidence.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from sensor.bench import probe_frames
from sensor.bench.costly_texts import beginnings, costly_texts
from sensor.bench.effort import Step
from sensor.bench.payload_search import PayloadSearch, Recipe
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.model import FrameBatch, Rule
from sensor.pipeline import Pipeline
from sensor.protocols import ICMP, TCP, UDP, protocol_name
from sensor.rules.cost import batch_of, measure_each
from sensor.rules.engine.matcher import Matcher
from sensor.rules.obstacles import Specimen

LIMITS_US = {1_500: 150.0, 65_400: 1_500.0}
"""The most CPU time that a packet may cost, by the size of its payload; the largest still fits in a frame."""
TRIALS, QUICK_TRIALS = 4_000, 500
"""Payloads of the smallest size tried per kind; of larger ones, as many as cost the same."""
DEAREST = 10
"""Rules that are named if the limit is not met."""
_ROUNDS, _SEARCH_ROUNDS = 31, 3
_BATCH_BYTES = 1 << 16
_LEAST_FRAMES = 16
"""A batch has a cost of its own, which many frames share."""
_CLIENT_PORT, _SERVER_PORT = 40_000, 80
_TIME_US = 1_767_607_200_000_000


class _Kind(NamedTuple):
    """Payloads that the same rules see."""

    protocol: int
    is_http: bool

    def __str__(self) -> str:
        return f"{protocol_name(self.protocol)}{', HTTP' if self.is_http else ''}"


class _DearestPayload(NamedTuple):
    """The dearest payload of a size."""

    cost_us: float
    kind: _Kind
    size: int
    recipe: Recipe

    @property
    def specimen(self) -> Specimen:
        return Specimen(self.recipe.payload(self.size), self.kind.protocol, _CLIENT_PORT, _SERVER_PORT)


_KINDS = [_Kind(protocol, is_http) for protocol in (TCP, UDP, ICMP) for is_http in (True, False)]


def measure(
    matcher: Matcher, *, trials: int, seed: int, step: Step, capture: Path | None = None
) -> list[dict[str, Any]]:
    """Return the dearest packet of each size; write them to the file ``capture``, if given.

    Raises:
        OSError: The file cannot be written.
    """
    dearest: dict[int, _DearestPayload] = {}
    by_kind: dict[int, dict[str, float]] = {size: {} for size in LIMITS_US}
    for kind in _KINDS:
        for found in _search(matcher, kind, trials, seed, step):
            by_kind[found.size][str(kind)] = round(found.cost_us, 1)
            dearest[found.size] = max(found, dearest.get(found.size, found))
    if capture:
        write_capture(capture, [Frame(_TIME_US, _frame(one.specimen)) for one in dearest.values()])
    return [_result(matcher, one, by_kind[one.size], trials, seed, step) for one in dearest.values()]


def _search(matcher: Matcher, kind: _Kind, trials: int, seed: int, step: Step) -> list[_DearestPayload]:
    """Return the dearest payload of a kind in each size; each search begins at the result before."""
    rng = Random(seed)  # noqa: S311 - the same proposals for the same seed
    step(f"searching for the worst payload: {kind}")
    texts = costly_texts(matcher.rules, kind.protocol, rng, is_http=kind.is_http)
    starts = beginnings(matcher.http, is_http=kind.is_http)
    known: list[Recipe] = []
    found = []
    for size, limit_us in LIMITS_US.items():

        def cost(payload: bytes) -> float:
            return _match_us(matcher, Specimen(payload, kind.protocol, _CLIENT_PORT, _SERVER_PORT))

        count = round(trials * min(LIMITS_US.values()) / limit_us)
        known = [PayloadSearch(cost, size, texts, starts, rng).run(count, known)]
        found.append(_DearestPayload(cost(known[0].payload(size)), kind, size, known[0]))
    return found


def _match_us(matcher: Matcher, specimen: Specimen) -> float:
    """Return the CPU time of matching a payload in microseconds, the least of a few rounds."""
    buffer, payloads = batch_of([specimen] * 2, matcher.http)
    least = float("inf")
    for _ in range(_SEARCH_ROUNDS):
        start_ns = time.thread_time_ns()
        matcher.matches(buffer, payloads)
        least = min(least, (time.thread_time_ns() - start_ns) / 2e3)
    return least


def _result(
    matcher: Matcher, found: _DearestPayload, by_kind: dict[str, float], trials: int, seed: int, step: Step
) -> dict[str, Any]:
    """Measure a flood of the packet, and describe it."""
    specimen, limit_us = found.specimen, LIMITS_US[found.size]
    costs, cut_share = _flood(matcher, specimen)
    buffer, payloads = batch_of([specimen], matcher.http)
    matches = matcher.matches(buffer, payloads)
    cost_us = median(costs)
    over = cost_us > limit_us
    return {
        "payload_bytes": found.size,
        "cost_us": round(cost_us, 1),
        "least_us": round(min(costs), 1),
        "limit_us": limit_us,
        "is_met": not over,
        "kind": str(found.kind),
        "incomplete": cut_share > 0.5,
        "matches": len(matches.rule),
        "beginning": _text(found.recipe.beginning),
        "repeated": [_text(one) for one in found.recipe.texts],
        "match_us_by_kind": by_kind,
        "trials": trials,
        "seed": seed,
        "dearest_rules": _dearest_rules(matcher, specimen, step) if over else [],
    }


def _flood(matcher: Matcher, specimen: Specimen) -> tuple[list[float], float]:
    """Return the CPU time of a packet of a flood in microseconds, per round, and the share of them cut."""
    frame = _frame(specimen)
    count = max(_LEAST_FRAMES, _BATCH_BYTES // len(frame))
    size = np.full(count, len(frame), np.int64)
    zeros = np.zeros(count, np.int64)
    ones = np.ones(count, np.int64)  # the kernel has counted the packets of the flow, as it does live
    batch = FrameBatch(
        memoryview(frame * count),
        np.cumsum(size) - size,
        size,
        size,
        zeros,
        zeros,
        flow_packets=ones,
        flow_born_jiffies=ones,
    )
    pipeline = Pipeline(matcher, "any")
    costs = []
    cut = matcher.cut
    for _ in range(_ROUNDS):
        start_ns = time.thread_time_ns()
        pipeline.process(batch)
        costs.append((time.thread_time_ns() - start_ns) / count / 1e3)
    return costs, (matcher.cut - cut) / (count * _ROUNDS)


def _frame(specimen: Specimen) -> bytes:
    payload, protocol, sport, dport = specimen
    if protocol == TCP:
        segment = probe_frames.tcp(payload, dport, sport=sport)
    elif protocol == UDP:
        segment = probe_frames.udp(payload, dport, sport=sport)
    else:
        segment = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + payload  # an ICMP echo request
    return probe_frames.ipv4(protocol, segment)


def _dearest_rules(matcher: Matcher, specimen: Specimen, step: Step) -> list[dict[str, Any]]:
    """Return the rules that cost most with a payload, each measured alone."""
    rules = [rule for rule in matcher.rules if rule.protocol in (None, specimen.protocol)]
    costs: list[tuple[float, Rule]] = []
    for number, (rule, cost) in enumerate(measure_each(rules, [specimen], matcher.http)):
        if number % 100 == 0:
            step(f"measuring each rule with it: {number} of {len(rules)}")
        costs.append((cost.payload_ns / 1e3, rule))
    costs.sort(key=lambda one: (-one[0], one[1].rule_id))
    return [
        {"rule": rule.rule_id, "class": rule.rule_class, "name": rule.name, "cost_us": round(cost_us, 1)}
        for cost_us, rule in costs[:DEAREST]
    ]


def _text(data: bytes) -> str:
    r"""Return bytes as text that can be read: those outside 0x20-0x7e as ``\xNN``."""
    return data.decode("latin-1").encode("unicode_escape").decode("ascii")
