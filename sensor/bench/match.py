"""What matching costs: CPU time a candidate of 400 bytes.

A program of its own (``python -m bench.match``); prints one JSON object. Each figure is the least
of many rounds over a batch: other programs only add. ``default_us`` and ``thorough_us`` are the
whole pipeline as it runs live, decoding, flows and evidence included; ``decode_us`` and
``match_us`` are two parts of it.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import version
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from bench.traffic.frames import ACK, ETHERTYPE_IPV4, PSH, TCP, Host, ethernet, packets, tcp
from sensor.decode import decode
from sensor.model import FrameBatch, Rule
from sensor.pipeline import Pipeline
from sensor.rules.load import load_rules
from sensor.rules.matcher import Payloads
from sensor.rules.profile import PROFILES

SIZE = 400
BATCH = 1000
ROUNDS = 31
PACKAGES = ("hyperscan", "google-re2", "numpy")
CLIENT = Host(bytes.fromhex("02000000000a"), IPv4Address("192.0.2.10"))
SERVER = Host(bytes.fromhex("02000000000b"), IPv4Address("198.51.100.20"))
WORD = re.compile(r"(?<![\\\[A-Za-z:])[A-Za-z]{4,}(?![\]-])")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=Path, default=Path(__file__).parents[1] / "fp-pattern")
    parser.add_argument("--times", type=int, default=10, help="variants of each rule in the larger set")
    arguments = parser.parse_args()
    rules = list(load_rules(arguments.rules))
    many = [one for rule in rules for one in variants(rule, arguments.times)]
    print(
        json.dumps(
            {
                "machine": machine(),
                "rules": str(arguments.rules),
                "sets": [measure(rules), measure(many)],
            },
            indent=2,
        )
    )


def machine() -> dict[str, str]:
    """Say where this ran."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith(("model name", "CPU part"))]
    return {
        "cpu": names[0] if names else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    } | {package: version(package) for package in PACKAGES}


def variants(rule: Rule, times: int) -> Iterable[Rule]:
    """Yield the rule, and rules like it that look for other words of the same length."""
    yield rule
    for step in range(1, times):
        regex = WORD.sub(lambda word, step=step: _rotated(word[0], step), rule.regex)  # type: ignore[misc]
        yield replace(rule, rule_id=rule.rule_id + step * 1_000_000, regex=regex)


def _rotated(word: str, step: int) -> str:
    first = {True: ord("a"), False: ord("A")}
    return "".join(
        chr((ord(letter) - first[letter.islower()] + step) % 26 + first[letter.islower()]) for letter in word
    )


def measure(rules: list[Rule]) -> dict[str, Any]:
    """Measure one set of rules over all kinds of payload."""
    start = time.process_time()
    pipeline = Pipeline(rules, "any")
    compile_s = time.process_time() - start
    return {
        "rules": len(rules),
        "compile_s": round(compile_s, 2),
        "database_mib": round(pipeline.matcher.size_bytes / 2**20, 1),
        "payloads": {kind: costs(pipeline, payload) for kind, payload in payloads().items()},
    }


def costs(pipeline: Pipeline, payload: bytes) -> dict[str, float]:
    """Return microseconds a candidate of this payload, by profile, and how many rules match it."""
    batch = batch_of(payload)
    figures = {"matches": float(len(pipeline.matcher.match(payload, TCP, 40000, 80)))}
    figures["decode_us"] = least_us(lambda: decode(batch))
    figures["match_us"] = _match_us(pipeline, batch)
    for profile in ("default", "thorough"):
        figures[f"{profile}_us"] = _pipeline_us(pipeline, profile, batch)
    return figures


def _match_us(pipeline: Pipeline, batch: FrameBatch) -> float:
    packets = decode(batch)
    octets = np.frombuffer(batch.buffer, np.uint8)
    is_http = pipeline.matcher.http.matches_each(octets, packets.payload_start, packets.payload_end)
    ports = packets.protocol, packets.sport, packets.dport
    payloads = Payloads(packets.payload_start, packets.payload_end, *ports, is_http)
    return least_us(lambda: pipeline.matcher.match_each(batch.buffer, payloads))


def _pipeline_us(pipeline: Pipeline, profile: str, batch: FrameBatch) -> float:
    """Measure a pipeline of this profile; in the default one each round is of new flows' first packets."""
    one = Pipeline((), "any", profile)
    one.matcher = pipeline.matcher
    depth = PROFILES[profile].depth or ROUNDS
    return least_us(lambda: one.process(batch), min(ROUNDS, depth))


def least_us(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the least CPU time of several rounds, in microseconds a frame of a batch."""
    least = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        work()
        least = min(least, time.process_time() - start)
    return round(least / BATCH * 1e6, 2)


def payloads() -> dict[str, bytes]:
    """Return payloads of 400 bytes: those that no rule hits, and one that a rule of either set does."""
    rng = random.Random(400)
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
    """Return a batch of frames with this payload, each of a flow of its own."""
    frames = []
    for number in range(BATCH):
        segment = tcp(
            CLIENT.address, 40000 + number, SERVER.address, 80, seq=1, ack=1, flags=PSH | ACK, payload=payload
        )
        [packet] = packets(CLIENT, SERVER, TCP, segment, identification=number)
        frames.append(ethernet(CLIENT.mac, SERVER.mac, ETHERTYPE_IPV4, packet))
    caplen = np.array([len(frame) for frame in frames], np.int64)
    zeros = np.zeros(BATCH, np.int64)
    return FrameBatch(memoryview(b"".join(frames)), np.cumsum(caplen) - caplen, caplen, caplen, zeros, zeros)


if __name__ == "__main__":
    main()
