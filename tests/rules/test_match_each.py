"""Matching many payloads in one call gives the same matches as matching each alone."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from sensor.model import Match, Rule
from sensor.rules.engine.matcher import Matcher, Payloads
from sensor.rules.engine.scan import SLICE
from sensor.rules.files.load import load_rules
from tests.test_fp_pattern import HITS, MISSES, ORDINARY

ROOT = Path(__file__).parents[2]
TCP = 6

Packet = tuple[bytes, int, int, int]
"""Payload, protocol, ports."""


def match_each(matcher: Matcher, packets: list[Packet]) -> list[tuple[Match, ...]]:
    """Return the matches of each packet, found in one call."""
    sizes = np.array([len(payload) for payload, *_ in packets])
    end = np.cumsum(sizes)
    payloads = Payloads(
        end - sizes,
        end,
        np.array([protocol for _, protocol, _, _ in packets], np.uint8),
        np.array([sport for _, _, sport, _ in packets], np.uint16),
        np.array([dport for _, _, _, dport in packets], np.uint16),
        np.array([matcher.http.matches(payload) for payload, *_ in packets]),
    )
    found = matcher.match_each(memoryview(b"".join(payload for payload, *_ in packets)), payloads)
    assert [position for position, _ in found] == sorted({position for position, _ in found})
    by_position = dict(found)
    return [by_position.get(position, ()) for position in range(len(packets))]


@pytest.fixture(scope="module")
def own() -> Matcher:
    """Return a matcher of the project's own rules."""
    return Matcher(load_rules(ROOT / "fp-pattern"))


def test_a_batch_matches_as_its_packets_do(own: Matcher) -> None:
    """A mix of transports, ports, HTTP and long payloads gives the same matches, in the same order."""
    rng = Random(7)
    cases = [case for _, case in HITS + MISSES] + ORDINARY
    packets = [(case.payload, case.protocol, case.sport, case.dport) for case in cases]
    packets += [(payload.ljust(SLICE + 1, b" "), *rest) for payload, *rest in packets[::50]]
    rng.shuffle(packets)
    assert match_each(own, packets) == [own.match(*packet) for packet in packets]


def test_more_matches_than_one_call_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """If matches do not fit, the scan resumes with their packet: none is lost or doubled."""
    matcher = Matcher([Rule(number, "threat", "Type", "Name", f"w{number}(?:x|y)") for number in range(1, 6)])
    monkeypatch.setattr("sensor.native._MOST_MATCHES", 7)
    payload = b"w1x w2y w3x w4y w5x"
    packets = [(payload, TCP, 1, 2), (b"none", TCP, 1, 2), (b"w3y", TCP, 1, 2)] * 20
    assert match_each(matcher, packets) == [matcher.match(*packet) for packet in packets]


def test_no_payload(own: Matcher) -> None:
    """An empty batch has no matches."""
    assert match_each(own, [(b"x", TCP, 1, 2)][:0]) == []
