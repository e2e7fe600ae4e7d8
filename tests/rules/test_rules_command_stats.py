"""`sensor rules stats`: the cost of the rules, on captured or generated payloads."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import RULES, sensor, write_rules

from sensor.bench.sample_payloads import captured, generated
from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_rules
from sensor.rules.obstacles import Specimen

IN_USE = {int(number) for rules in RULES.values() for number, rule in rules.items() if "deleted" not in rule}


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Return a directory with a few rules."""
    return write_rules(tmp_path)


def test_rules_are_sorted_by_cost(rules: Path) -> None:
    """Each rule is measured once, and all together: times, sizes, matches."""
    [found] = sensor("rules", "stats", "--rules", rules, "--json").objects
    assert found["rules"] == len(IN_USE)
    assert {cost["rule"] for cost in found["each"]} == IN_USE
    times = [cost["payload_ns"] for cost in found["each"]]
    assert times == sorted(times, reverse=True)
    assert all(cost["size_bytes"] > 0 and cost["compile_ms"] > 0 for cost in found["each"])
    assert found["together"]["size_bytes"] > 0
    assert found["together"]["payload_ns"] > 0
    assert found["payloads"] == 1000


def test_with_payloads_of_a_capture_file(rules: Path) -> None:
    """Matches are those in the file's payloads, by rule."""
    path = rules / "mix.pcap"
    write_capture(path, mix.demo(seed=1).frames)
    [found] = sensor("rules", "stats", "--rules", rules, "--payloads", path, "--json").objects
    specimens = captured(path)
    matcher = Matcher(load_rules(rules), RFC9110)
    matches = [match.rule.rule_id for specimen in specimens for match in matcher.match(*specimen)]
    assert found["payloads"] == len(specimens)
    assert {cost["rule"]: cost["hits"] for cost in found["each"]} == {
        rule: matches.count(rule) for rule in IN_USE
    }
    assert found["together"]["hits"] == len(matches) > 5


def test_the_table(rules: Path) -> None:
    """There are two lines about all rules, and one line per rule."""
    lines = sensor("rules", "stats", "--rules", rules).out.splitlines()
    assert lines[0].startswith(f"{len(IN_USE)} rules: ")
    assert lines[1].startswith("1000 payloads of ")
    assert lines[2].split() == ["ns/payload", "matches", "compile", "ms", "KiB", "rule", "class", "name"]
    assert {int(line.split()[4]) for line in lines[3:]} == IN_USE


def test_a_file_without_payload(rules: Path) -> None:
    """The error is one line, and the exit code is 7."""
    path = rules / "empty.pcap"
    write_capture(path, [])
    done = sensor("rules", "stats", "--rules", rules, "--payloads", path)
    assert done.code == 7
    assert done.err == f"sensor: {path}: no packet has a payload; use another capture\n"


def test_the_generated_mix() -> None:
    """The mix is the same at each call, and contains HTTP, encrypted and UDP payloads."""
    mixed = generated()
    assert mixed == generated()
    assert all(isinstance(one, Specimen) and one.payload for one in mixed)
    assert 0.3 < sum(RFC9110.matches(one.payload) for one in mixed) / len(mixed) < 0.7
    assert {one.protocol for one in mixed} == {6, 17}
