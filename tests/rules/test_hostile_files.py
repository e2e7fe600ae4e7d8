"""Rule files made to cost much are refused in one line each, and what is only large works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import RulesError
from sensor.rules.compilation.compiler_task import CompilerLimits
from sensor.rules.compilation.rule_compiler import compile_rules
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.files import rule_file_reader
from sensor.rules.files.load import load_rules
from sensor.rules.files.rule_sources import RuleSources

RULE = {"type": "T", "name": "N", "regex": "harmless"}
HOSTILE = {
    "deep lists": (b"[" * (4 << 20), "too deep nesting"),
    "deep objects": (b'{"a":' * 500_000, "too deep nesting"),
    "a long number": (b'{"a": ' + b"9" * (1 << 20) + b"}", "too long a number"),
    "many faults": (
        b'{"a": {"rules": {' + b",".join(b'"%d": {}' % number for number in range(1, 20_000)) + b"}}}",
        "10,000 faults",
    ),
    "one key again and again": (
        b'{"a": {"rules": {' + b",".join([b'"1": {}'] * 20_000) + b"}}}",
        "10,000 faults",
    ),
}


def file_of(*rules: dict[str, Any]) -> bytes:
    """Return a rule file."""
    return json.dumps({"a": {"rules": dict(enumerate(rules, 1))}}).encode()


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("lenient", [False, True])
def test_hostile_files_are_refused(tmp_path: Path, case: str, lenient: bool) -> None:
    """No traceback, no long message, and with ``lenient`` no rule set without a rule."""
    content, problem = HOSTILE[case]
    (tmp_path / "threat.json").write_bytes(content)
    with pytest.raises(RulesError, match=problem) as error:
        compile_rules(RuleSources.read(tmp_path), RFC9110, lenient=lenient)
    assert len(str(error.value)) < 1000 + len(str(tmp_path))


def test_a_long_text_needs_little_memory(tmp_path: Path) -> None:
    """A rule with a description of 16 MiB is an odd rule and no attack."""
    (tmp_path / "os.json").write_bytes(file_of(RULE | {"desc": "d" * (16 << 20)}))
    limits = CompilerLimits(memory_mib=1000)
    ready = compile_rules(RuleSources.read(tmp_path), RFC9110, lenient=False, limits=limits)
    assert len(ready.rules) == 1


def test_many_rules_below_the_limit_are_too_much_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rule is small enough, and the sum counts; the message names the rule that is too much."""
    monkeypatch.setattr(rule_file_reader, "MOST_STATES", 500)
    (tmp_path / "os.json").write_bytes(file_of(*(RULE | {"regex": f"x{{90}}{n}"} for n in range(9))))
    with pytest.raises(RulesError, match="up to rule 6, the expressions expand to more than 500 states"):
        load_rules(tmp_path)
