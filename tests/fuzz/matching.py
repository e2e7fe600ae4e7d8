"""Matching: the rules of a set that match a payload are those that PCRE finds, searching for each alone.

The rules are random, of all kinds, and compiled into one matcher. Payloads go through it in batches, as in
a worker. PCRE gets each text that a rule has to see: the payload or its part, as it is and decoded.
"""

from __future__ import annotations

from itertools import groupby
from unittest.mock import patch
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from sensor.rules.engine import budget
from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, HttpReading
from sensor.rules.engine.locate import locate
from sensor.rules.engine.matcher import Matcher, Payloads
from tests.fuzz.pcre_matrix import match_matrix
from tests.fuzz.random_rules import SLICE, Packet, RandomRule, random_packets, random_rules
from tests.fuzz.rounds import Round
from tests.rules.pcre_oracle import MatchLimitError
from tests.rules.samples import payloads_of

RULES = 50
PACKETS = 4000
LOCATED = 300
"""Matches per round whose spans are compared."""
BUDGETS_NS = (0, 1_000, 20_000, 100_000)
"""Budgets of CPU time with which searches are cut."""
BLANK_LINE = b"\r\n\r\n"
BETWEEN = (b"", b"41", b"\n\r\n", b"GET / HTTP/1.1")
"""Bytes behind a payload: nothing that is read by mistake may make a difference."""


def fuzz(one: Round) -> None:
    """Compare the matches of a random rule set."""
    http = one.rng.choice((RFC9110, RFC9110, LY_PROBE))
    rules = random_rules(one.rng, RULES)
    packets = random_packets(rules, http, one.rng, PACKETS)
    expected = expected_matches(rules, packets, http)
    matcher = Matcher([each.rule for each in rules], http)
    batch = payloads_of(packets, http, one.rng.choice(BETWEEN))
    found, _ = _search(matcher, batch, 10**12)
    one.comparisons += int((expected >= 0).sum())
    for rule, packet in np.argwhere((found != expected) & (expected >= 0)):
        _note(one, rules[rule], packets[packet], "missed" if expected[rule, packet] else "invented")
    cut, incomplete = _search(matcher, batch, one.rng.choice(BUDGETS_NS))
    one.comparisons += int((found | cut).sum())
    for rule, packet in np.argwhere((cut > found) | (cut != found) & ~incomplete):
        what = "invented" if cut[rule, packet] else "missed"
        _note(one, rules[rule], packets[packet], f"{what}, with little time")
    _compare_spans(one, rules, packets, np.argwhere((found == 1) & (expected == 1)), http)


def _search(
    matcher: Matcher, batch: tuple[memoryview, Payloads], budget_ns: int
) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Return 1 where a rule is found, shape (rules, packets), and True for packets that were cut."""
    found = np.zeros((len(matcher.rules), len(batch[1].start)), np.int8)
    with patch.multiple(budget, PAYLOAD_NS=budget_ns, SHORT_NS=budget_ns):
        matches = matcher.matches(*batch)
    found[matches.rule, matches.payload] = 1
    return found, matches.incomplete


def expected_matches(rules: list[RandomRule], packets: list[Packet], http: HttpReading) -> NDArray[np.int8]:
    """Return 1 where a rule matches a packet, 0 where not, -1 where PCRE gave up; shape (rules, packets)."""
    expected = np.zeros((len(rules), len(packets)), np.int8)
    is_http = np.array([http.matches(packet.payload) for packet in packets])
    protocol = np.array([packet.protocol for packet in packets])
    ports = np.array([packet[2:] for packet in packets])
    for key, group in groupby(sorted(rules, key=_texts_key), key=_texts_key):
        same = list(group)
        numbers = [each.rule.rule_id - 1 for each in same]
        seen = np.flatnonzero(is_http) if key[0] else np.arange(len(packets))
        for texts in _texts(key, [packets[at].payload for at in seen]):
            found = match_matrix([each.pcre for each in same], texts)
            before = expected[np.ix_(numbers, seen)]
            expected[np.ix_(numbers, seen)] = np.where(before == 1, 1, np.where(found == 0, before, found))
    for number, each in enumerate(rules):
        rule = each.rule
        other = (protocol != rule.protocol) if rule.protocol else np.zeros(len(packets), bool)
        if rule.port:
            other |= (ports != rule.port).all(axis=1)
        expected[number, other] = 0
    return expected


def _texts_key(each: RandomRule) -> tuple[bool, str, bool]:
    """Return what decides which texts a rule sees."""
    rule = each.rule
    return (True, rule.part, bool(rule.decode)) if rule.is_http else (False, "total", False)


def _texts(key: tuple[bool, str, bool], payloads: list[bytes]) -> list[list[bytes]]:
    """Return the texts that a rule sees in each payload, as they are and decoded."""
    _, part, is_decoded = key
    texts = [[_part(payload, part) for payload in payloads]]
    for _ in range(2 if is_decoded else 0):
        texts.append([unquote_to_bytes(text.replace(b"+", b" ")) for text in texts[-1]])
    return texts


def _part(payload: bytes, part: str) -> bytes:
    head, _, body = payload.partition(BLANK_LINE)
    return {"total": payload, "head": head, "body": body}[part]


def _compare_spans(
    one: Round, rules: list[RandomRule], packets: list[Packet], pairs: NDArray[np.intp], http: HttpReading
) -> None:
    """Compare the places of some matches with those that PCRE finds; only raw payloads have one text."""
    usable = [
        (rules[rule], packets[packet])
        for rule, packet in pairs.tolist()
        if not rules[rule].rule.is_http and len(packets[packet].payload) < SLICE
    ]
    for each, packet in one.rng.sample(usable, min(LOCATED, len(usable))):
        try:
            whole, group = each.pcre.spans(packet.payload) or ((-1, -1), None)
        except MatchLimitError:
            continue
        match = locate(each.rule, packet.payload, http)
        one.comparisons += 1
        if (match.start, match.end) != (group or whole):
            _note(one, each, packet, f"located at {match.start}-{match.end} instead of {group or whole}")


def _note(one: Round, each: RandomRule, packet: Packet, what: str) -> None:
    one.fault(
        f"{what}: {each.rule}\nin {packet.protocol} {packet.sport} {packet.dport}\n{packet.payload[:300]!r}",
        regex_txt=each.rule.regex,
        payload_bin=packet.payload,
    )
