"""`sensor rules check`: all faults of all files, in messages that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import sensor

from sensor.config.settings import BUNDLED_RULES

FAULTY = Path(__file__).parents[1] / "corpus" / "faulty"
"""Directories of rule files, each with what `check` prints in ``expected.txt``."""
CASES = sorted(path.name for path in FAULTY.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_the_exact_messages_of_all_faults(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run prints each fault with file, line, rule, field and what is wrong, and exits with 2."""
    monkeypatch.chdir(FAULTY / case)
    done = sensor("rules", "check", ".")
    assert done.out == Path("expected.txt").read_text()
    assert (done.code, done.err) == (2, "")


@pytest.mark.parametrize("case", CASES)
def test_json_says_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of each fault in JSON, joined, are its line of text."""
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
    """Without DIR, the directory of the setting is checked."""
    files = [json.loads(path.read_text()) for path in BUNDLED_RULES.glob("*.json")]
    rules = sum(len(body["rules"]) for file in files for body in file.values())
    done = sensor("rules", "check")
    assert (done.code, done.out) == (0, f"{rules} rules are fine\n")


def test_the_directory_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """SENSOR_RULES names the directory, as for all other commands."""
    monkeypatch.setenv("SENSOR_RULES", str(FAULTY / "port-too-high"))
    assert sensor("rules", "check").code == 2


def test_lenient_lists_skipped_rules() -> None:
    """With --lenient, the same faults are printed and the exit code is 0, if one file is usable."""
    strict = sensor("rules", "check", FAULTY / "many-at-once").out.splitlines()
    done = sensor("rules", "check", "--lenient", FAULTY / "many-at-once")
    assert done.code == 0
    assert done.out.splitlines()[:-1] == strict[:-1]
    assert done.out.splitlines()[-1] == "7 faults, skipped; 1 rule is fine"
    assert sensor("rules", "check", "--lenient", FAULTY / "json-torn").code == 2


def test_a_missing_directory(tmp_path: Path) -> None:
    """A missing directory is a fault like one without rule files."""
    done = sensor("rules", "check", tmp_path / "nosuch")
    assert done.code == 2
    assert done.out.startswith(f"{tmp_path / 'nosuch'}: no rule file in this directory; expected one of ")


def test_deleted_rules_are_checked_field_by_field_only(tmp_path: Path) -> None:
    """The regex of a deleted rule is not checked, nor whether its fields make sense together."""
    rule = {"type": "t", "name": "n", "regex": r"(a)\1", "protocol": "udp", "is_http": 1, "deleted": 1}
    (tmp_path / "os.json").write_text(json.dumps({"os": {"rules": {"1": rule}}}))
    assert sensor("rules", "check", tmp_path).out == "0 rules are fine\n"


def test_lenient_may_be_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules with which a sensor with these settings would start do not lead to exit code 2."""
    monkeypatch.setenv("SENSOR_LENIENT", "true")
    assert sensor("rules", "check", FAULTY / "many-at-once").code == 0
