"""The CPU time per candidate of 400 bytes, in one process and without a kernel program.

Each figure is the least of many rounds over a batch, as other programs only add time. ``default_us``
and ``thorough_us`` are the whole pipeline, with decoding, flows and evidence; ``decode_us`` and
``match_us`` are two parts of it. ``live_us`` is the default profile on frames whose flows the kernel has
counted, as it does live. ``re_us`` and ``pcre2_us`` are the baselines of ``match_us``, one rule after the
other. ``worst`` is the most that a packet can cost (`sensor.bench.worst_payload`).

Runs in ``sensor bench match``.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sensor.bench import probe_frames
from sensor.bench.baselines import Baselines
from sensor.bench.effort import Step
from sensor.bench.machine import machine
from sensor.bench.worst_payload import QUICK_TRIALS, TRIALS
from sensor.bench.worst_payload import measure as measure_worst
from sensor.decode import decode
from sensor.model import FrameBatch, Rule
from sensor.pipeline import Pipeline
from sensor.protocols import TCP
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.engine.matcher import Matcher, Payloads
from sensor.rules.engine.profile import PROFILES
from sensor.rules.ready import load_and_log

SIZE = 400
BATCH = 1000
ROUNDS = 31
VARIANTS = 10
"""Rules in the larger set for each rule of the smaller set."""
SERVER_PORT, FIRST_CLIENT_PORT = 80, 40_000
WORD = re.compile(r"(?<![\\\[A-Za-z:])[A-Za-z]{4,}(?![\]-])")


def measure(
    rules: Path,
    *,
    quick: bool,
    step: Step,
    trials: int | None = None,
    seed: int = 1,
    capture: Path | None = None,
) -> dict[str, Any]:
    """Measure a set of rules, and unless ``quick`` ten times as many.

    ``trials`` and ``seed`` are those of the search for the worst payload, which is written to the file
    ``capture``, if given.

    Raises:
        RulesError: a rule is wrong.
        OSError: ``capture`` cannot be written.
    """
    where = machine()
    loaded = list(load_and_log(rules, lenient=False))
    sets = [loaded]
    if not quick:
        sets.append([one for rule in loaded for one in variants(rule, VARIANTS)])
    results = []
    worst = []
    for rule_set in sets:
        step(f"compiling {len(rule_set)} rules")
        start = time.process_time()
        matcher = Matcher(rule_set)
        compile_s = time.process_time() - start
        results.append(_measure(matcher, compile_s, step))
        if rule_set is loaded:
            trials = trials or (QUICK_TRIALS if quick else TRIALS)
            worst = measure_worst(matcher, trials=trials, seed=seed, step=step, capture=capture)
    step("searching each rule with re and PCRE2")
    _add_baselines(results[0]["payloads"], Baselines(loaded))
    return {"machine": where, "payload_bytes": SIZE, "sets": results, "worst": worst}


def variants(rule: Rule, times: int) -> Iterable[Rule]:
    """Yield the rule, and similar rules that look for other words of the same length."""
    yield rule
    for step in range(1, times):
        regex = WORD.sub(lambda word, step=step: _rotated(word[0], step), rule.regex)  # type: ignore[misc]
        yield replace(rule, rule_id=rule.rule_id + step * 1_000_000, regex=regex)


def _rotated(word: str, step: int) -> str:
    first = {True: ord("a"), False: ord("A")}
    return "".join(
        chr((ord(letter) - first[letter.islower()] + step) % 26 + first[letter.islower()]) for letter in word
    )


def _measure(matcher: Matcher, compile_s: float, step: Step) -> dict[str, Any]:
    """Measure a set of rules with each kind of payload."""
    pipeline = Pipeline(matcher, "any")
    step(f"matching {len(matcher.rules)} rules")
    return {
        "rules": len(matcher.rules),
        "compile_s": round(compile_s, 2),
        "database_mib": round(matcher.size_bytes / 2**20, 1),
        "payloads": {kind: costs(pipeline, payload) for kind, payload in payloads().items()},
    }


def costs(pipeline: Pipeline, payload: bytes) -> dict[str, float]:
    """Return the number of rules that match a payload, and its cost in microseconds per candidate."""
    batch = batch_of(payload)
    figures = {"matches": float(len(pipeline.matcher.match(payload, TCP, FIRST_CLIENT_PORT, SERVER_PORT)))}
    figures["decode_us"] = least_us(lambda: decode(batch))
    figures["match_us"] = _match_us(pipeline, batch)
    for profile in ("default", "thorough"):
        figures[f"{profile}_us"] = _pipeline_us(pipeline, profile, batch)
    counted = replace(
        batch, flow_packets=np.ones(BATCH, np.int64), flow_born_jiffies=np.ones(BATCH, np.int64)
    )
    figures["live_us"] = _pipeline_us(pipeline, "default", counted)
    return figures


def _add_baselines(costs_by_payload: dict[str, dict[str, float]], baselines: Baselines) -> None:
    for kind, payload in payloads().items():
        figures = costs_by_payload[kind]
        for name, cost_us in baselines.costs_us(payload, is_http=RFC9110.matches(payload)).items():
            figures[f"{name}_us"] = cost_us
            figures[f"ratio_to_{name}"] = round(figures["match_us"] / cost_us, 6)


def _match_us(pipeline: Pipeline, batch: FrameBatch) -> float:
    packets = decode(batch)
    octets = np.frombuffer(batch.buffer, np.uint8)
    is_http = pipeline.matcher.http.matches_each(octets, packets.payload_start, packets.payload_end)
    ports = packets.protocol, packets.sport, packets.dport
    payloads = Payloads(packets.payload_start, packets.payload_end, *ports, is_http)
    return least_us(lambda: pipeline.matcher.matches(batch.buffer, payloads))


def _pipeline_us(pipeline: Pipeline, profile: str, batch: FrameBatch) -> float:
    """Measure a pipeline; with the default profile each round has the first packets of new flows."""
    one = Pipeline(pipeline.matcher, "any", profile)
    depth = PROFILES[profile].depth or ROUNDS
    return least_us(lambda: one.process(batch), min(ROUNDS, depth))


def least_us(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the least CPU time of several rounds, in microseconds per frame of a batch."""
    least = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        work()
        least = min(least, time.process_time() - start)
    return round(least / BATCH * 1e6, 2)


def payloads() -> dict[str, bytes]:
    """Return payloads of 400 bytes: some that no rule matches, and one that a rule of each set matches."""
    rng = random.Random(400)  # noqa: S311 - the same at each call
    request = (
        b"GET /static/app/8f3a2.js?v=12&lang=en HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\n"
        b"User-Agent: Mozilla/5.0 (X11; OpenBSD amd64; rv:120.0) Gecko/20100101 Firefox/120.0\r\n"
        b"Accept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://a.example/\r\n"
        b"Cookie: session="
    )
    login = b'{"id": 1, "method": "mining.subscribe", "params": ["miner/4.5"]}\n'
    return {
        "random bytes": bytes(rng.randrange(256) for _ in range(SIZE)),
        "text": (b"The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 6)[:SIZE],
        "http request": request + rng.randbytes(200).hex().encode()[: SIZE - len(request) - 4] + b"\r\n\r\n",
        "one match": login + b" " * (SIZE - len(login)),
    }


def batch_of(payload: bytes) -> FrameBatch:
    """Return a batch of frames with this payload, each in a flow of its own."""
    segments = [
        probe_frames.tcp(payload, SERVER_PORT, sport=FIRST_CLIENT_PORT + number) for number in range(BATCH)
    ]
    packed = [probe_frames.ipv4(TCP, segment) for segment in segments]
    caplen = np.array([len(frame) for frame in packed], np.int64)
    zeros = np.zeros(BATCH, np.int64)
    return FrameBatch(memoryview(b"".join(packed)), np.cumsum(caplen) - caplen, caplen, caplen, zeros, zeros)
