"""`sensor rules check`: every fault of every file, in words that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import sensor

from sensor.config.settings import OWN_RULES

FAULTY = Path(__file__).parents[1] / "corpus" / "faulty"
"""Directories of rule files, each with what `check` prints in ``expected.txt``."""
CASES = sorted(path.name for path in FAULTY.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_every_fault_in_its_exact_words(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, line, rule, field, and what was expected; all of them in one run, and exit code 2."""
    monkeypatch.chdir(FAULTY / case)
    done = sensor("rules", "check", ".")
    assert done.out == Path("expected.txt").read_text()
    assert (done.code, done.err) == (2, "")


@pytest.mark.parametrize("case", CASES)
def test_json_says_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of each fault, put together, are its line."""
    monkeypatch.chdir(FAULTY / case)
    done = sensor("rules", "check", ".", "--json")
    [found] = done.objects
    lines = []
    for fault in found["faults"]:
        place = f"{fault['file']}:{fault['line']}" if fault["line"] else fault["file"]
        rule = fault["rule"] and f"rule {fault['rule']}"
        lines.append(": ".join(part for part in (place, rule, fault["field"], fault["problem"]) if part))
    assert lines == Path("expected.txt").read_text().splitlines()[:-1]
    assert done.code == 2


def test_our_own_rules_are_fine() -> None:
    """Without DIR it is the setting's directory that is checked."""
    files = [json.loads(path.read_text()) for path in OWN_RULES.glob("*.json")]
    rules = sum(len(body["rules"]) for file in files for body in file.values())
    done = sensor("rules", "check")
    assert (done.code, done.out) == (0, f"{rules} rules are fine\n")


def test_the_directory_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere else, SENSOR_RULES names it."""
    monkeypatch.setenv("SENSOR_RULES", str(FAULTY / "port-too-high"))
    assert sensor("rules", "check").code == 2


def test_lenient_lists_what_it_skips() -> None:
    """The same faults and exit code 0, as long as one file can be used."""
    strict = sensor("rules", "check", FAULTY / "many-at-once").out.splitlines()
    done = sensor("rules", "check", "--lenient", FAULTY / "many-at-once")
    assert done.code == 0
    assert done.out.splitlines()[:-1] == strict[:-1]
    assert done.out.splitlines()[-1] == "7 faults, skipped; 1 rule is fine"
    assert sensor("rules", "check", "--lenient", FAULTY / "json-torn").code == 2


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """Is a fault too."""
    done = sensor("rules", "check", tmp_path / "nosuch")
    assert done.code == 2
    assert done.out.startswith(f"{tmp_path / 'nosuch'}: expected one of service.json")


def test_deleted_rules_are_not_looked_into(tmp_path: Path) -> None:
    """A rule that is switched off may say what it likes, as long as its fields are right."""
    rule = {"type": "t", "name": "n", "regex": r"(a)\1", "protocol": "udp", "is_http": 1, "deleted": 1}
    (tmp_path / "os.json").write_text(json.dumps({"os": {"rules": {"1": rule}}}))
    assert sensor("rules", "check", tmp_path).out == "0 rules are fine\n"


def test_lenient_may_be_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sensor with these settings would start with is no reason for exit code 2."""
    monkeypatch.setenv("SENSOR_LENIENT", "true")
    assert sensor("rules", "check", FAULTY / "many-at-once").code == 0
