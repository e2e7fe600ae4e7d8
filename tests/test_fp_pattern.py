"""The project's own rules: each matches what it names, and neither look-alikes nor ordinary traffic.

The payloads are in ``corpus/rules`` and ``corpus/ordinary``; ``corpus/README.md`` describes both formats.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import dpkt
import pytest

from sensor.model import RULE_CLASSES, Match, Rule
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_rules

pytestmark = pytest.mark.usefixtures("enough_time")

ROOT = Path(__file__).parent.parent
CORPUS = Path(__file__).parent / "corpus"
REFERENCE = ROOT.parent / "shared" / "reference"
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}
SMALLEST = {"service": 100, "device": 40, "os": 35, "midware": 70, "threat": 200}
"""Least number of rules per class."""
FIRST_ID = {"service": 11000, "device": 21000, "os": 31000, "midware": 41000, "threat": 51000}
"""Lowest id per class; lower ids are used by ly_probe's own rules."""

ENCODED_OR_PLAIN = re.compile(rb"%[0-9A-Fa-f]{2}|[&=+]|(.)", re.DOTALL)

RULES = {rule.rule_id: rule for rule in load_rules(ROOT / "fp-pattern")}


class Case(NamedTuple):
    """One payload, and the exact set of rules that must match it."""

    label: str
    payload: bytes
    protocol: int
    sport: int
    dport: int
    expected: frozenset[int]
    version: str | None = None
    text: bytes | None = None


def _payload(text: str | list[str]) -> bytes:
    return (text if isinstance(text, str) else "\r\n".join(text)).encode("latin-1")


def _rule_cases(kind: str) -> list[tuple[int, Case]]:
    """Return the hits or misses of all rules, each with the id of its rule."""
    cases = []
    for rule_class in RULE_CLASSES:
        rules: dict[str, dict[str, Any]] = json.loads((CORPUS / "rules" / f"{rule_class}.json").read_text())
        for rule_id, about in rules.items():
            ports = PROTOCOLS[about["protocol"]], about["sport"], about["dport"]
            for number, entry in enumerate(about[kind], 1):
                own = {int(rule_id)} if kind == "hits" else set()
                text = _payload(entry["text"]) if "text" in entry else None
                case = Case(
                    f"{rule_id}-{about['name']}-{number}",
                    _payload(entry["payload"]),
                    *ports,
                    frozenset(own | set(entry.get("also", ()))),
                    entry.get("version"),
                    text,
                )
                cases.append((int(rule_id), case))
    return cases


def _ordinary_cases() -> list[Case]:
    cases = []
    for path in sorted((CORPUS / "ordinary").glob("*.json")):
        for entry in json.loads(path.read_text()):
            ports = PROTOCOLS[entry["protocol"]], entry["sport"], entry["dport"]
            expected = frozenset(entry.get("rules", ()))
            cases.append(Case(f"{path.stem}-{entry['name']}", _payload(entry["payload"]), *ports, expected))
    return cases


HITS = _rule_cases("hits")
MISSES = _rule_cases("misses")
ORDINARY = _ordinary_cases()


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    """Return a matcher of all the project's rules, with the default definition of HTTP."""
    return Matcher(RULES.values())


def _matches(matcher: Matcher, case: Case) -> dict[int, Match]:
    found = matcher.match(case.payload, case.protocol, case.sport, case.dport)
    return {match.rule.rule_id: match for match in found}


@pytest.mark.parametrize(("rule_id", "case"), [pytest.param(*pair, id=pair[1].label) for pair in HITS])
def test_a_rule_matches_what_it_names(matcher: Matcher, rule_id: int, case: Case) -> None:
    """The rule matches its payload, with the right version and span; of other rules, only those listed do."""
    found = _matches(matcher, case)
    assert set(found) == case.expected
    match = found[rule_id]
    fixed = RULES[rule_id].version
    assert match.version == (fixed if fixed is not None else case.version)
    if case.text is not None:
        assert case.payload[match.start : match.end] == case.text


@pytest.mark.parametrize(("rule_id", "case"), [pytest.param(*pair, id=pair[1].label) for pair in MISSES])
def test_a_rule_does_not_match_a_look_alike(matcher: Matcher, rule_id: int, case: Case) -> None:
    """The rule does not match a payload in which one change makes it harmless, or something else."""
    assert rule_id not in case.expected
    assert set(_matches(matcher, case)) == case.expected


@pytest.mark.parametrize("case", [pytest.param(case, id=case.label) for case in ORDINARY])
def test_ordinary_traffic_is_named_for_what_it_is(matcher: Matcher, case: Case) -> None:
    """Ordinary traffic matches exactly the rules that name its own protocol and software."""
    assert set(_matches(matcher, case)) == case.expected


ENCODABLE = [(rule_id, case) for rule_id, case in HITS if RULES[rule_id].decode and b"?" in case.payload]


@pytest.mark.parametrize(("rule_id", "case"), [pytest.param(*pair, id=pair[1].label) for pair in ENCODABLE])
def test_percent_encoding_hides_nothing(matcher: Matcher, rule_id: int, case: Case) -> None:
    """The rule still matches if every byte of the query is percent-encoded."""
    line, _, rest = case.payload.partition(b" HTTP/1.1\r\n")
    target, _, query = line.partition(b"?")
    payload = target + b"?" + ENCODED_OR_PLAIN.sub(_percent_encoded, query) + b" HTTP/1.1\r\n" + rest
    assert rule_id in _matches(matcher, case._replace(payload=payload))


def _percent_encoded(byte: re.Match[bytes]) -> bytes:
    return b"%%%02X" % byte[1][0] if byte[1] else byte[0]


def test_ordinary_traffic_is_not_a_threat_or_device() -> None:
    """Only the hits of threat and device rules expect a threat or a device."""
    harmless = [*ORDINARY, *(case for _, case in MISSES)]
    harmless += [case for rule_id, case in HITS if RULES[rule_id].rule_class not in ("threat", "device")]
    alarms = {case.label: case.expected for case in harmless if _alarms(case)}
    assert not alarms
    assert len(ORDINARY) >= 300


def _alarms(case: Case) -> bool:
    return any(RULES[rule_id].rule_class in ("threat", "device") for rule_id in case.expected)


def test_each_rule_has_a_hit_and_a_close_miss() -> None:
    """The corpus covers all rules, and no others."""
    assert {rule_id for rule_id, _ in HITS} == set(RULES)
    assert {rule_id for rule_id, _ in MISSES} == set(RULES)


@pytest.mark.parametrize("rule_class", RULE_CLASSES)
def test_each_class_has_enough_rules(rule_class: str) -> None:
    """Each class has its least number of rules, with ids in its own range."""
    ids = [rule.rule_id for rule in RULES.values() if rule.rule_class == rule_class]
    assert len(ids) >= SMALLEST[rule_class]
    assert ids == sorted(ids)
    assert all(FIRST_ID[rule_class] < rule_id < FIRST_ID[rule_class] + 9000 for rule_id in ids)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: f"{rule.rule_id}-{rule.name}")
def test_a_rule_is_well_made(rule: Rule) -> None:
    """A rule names its source; outside HTTP, it is bound to the first bytes or to a port."""
    assert rule.desc
    assert "\n" not in rule.desc
    assert rule.is_http or rule.port or rule.regex.startswith("^")


def test_no_regex_is_used_twice() -> None:
    """No two rules have the same regex, port and part."""
    counts = Counter((rule.regex, rule.port, rule.part) for rule in RULES.values())
    assert [key for key, count in counts.items() if count > 1] == []


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="ly_probe's rules are not on this machine")
def test_no_rule_is_a_copy() -> None:
    """No regex or id is the same as in ly_probe's rules."""
    theirs = [rule for path in [REFERENCE / "fp-patterns"] for rule in load_rules(path)]
    assert not {rule.regex for rule in theirs} & {rule.regex for rule in RULES.values()}
    assert not {rule.rule_id for rule in theirs} & set(RULES)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the captures are not on this machine")
def test_the_blind_injection_capture_is_named(matcher: Matcher) -> None:
    """In a real time-based SQL injection, each request matches a threat rule, and nothing else does."""
    named, requests = [], []
    with (REFERENCE / "pcap" / "sql_inject.pcap").open("rb") as file:
        for _, frame in dpkt.pcap.Reader(file):
            tcp = dpkt.ethernet.Ethernet(frame).data.data
            payload = bytes(tcp.data)
            if not payload:
                continue
            requests.append(b"sleep(1)" in payload)
            matches = matcher.match(payload, PROTOCOLS["tcp"], tcp.sport, tcp.dport)
            named.append(any(match.rule.rule_class == "threat" for match in matches))
    assert sum(requests) == 10
    assert named == requests
