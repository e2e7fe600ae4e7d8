"""Rule files: what is read, in which order, and all faults with their lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import RulesError
from sensor.rules.files.fields import FIELDS
from sensor.rules.files.load import load_rules
from sensor.rules.files.rule_fault import FaultyRulesError

GOOD = {"type": "Web", "name": "Server", "regex": "Server: x"}


def write(directory: Path, **files: Any) -> Path:
    """Write rule files, JSON or text, and return their directory."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps({name: {"rules": content}}, indent=1)
        (directory / f"{name}.json").write_text(text)
    return directory


def faults(directory: Path) -> list[str]:
    """Return the faults of a directory, without its path."""
    with pytest.raises(FaultyRulesError) as error:
        load_rules(directory)
    assert str(error.value) == "\n".join(map(str, error.value.faults))
    return [
        str(fault).replace(f"{directory}/", "").replace(str(directory), "") for fault in error.value.faults
    ]


def test_rules_come_in_class_and_file_order(tmp_path: Path) -> None:
    """Classes come in ly_probe's order, and rules in the order of their file, not of their ids."""
    write(
        tmp_path,
        threat={"9": GOOD},
        os={"5": GOOD, "3": GOOD},
        service={"7": GOOD},
        midware={"1": GOOD},
        device={"4": GOOD},
    )
    assert [(rule.rule_class, rule.rule_id) for rule in load_rules(tmp_path)] == [
        ("service", 7),
        ("device", 4),
        ("os", 5),
        ("os", 3),
        ("midware", 1),
        ("threat", 9),
    ]


def test_every_field_is_read(tmp_path: Path) -> None:
    """Each field of a rule file ends up in the rule."""
    fields = {
        "protocol": "Tcp",
        "port": 8080,
        "is_http": 1,
        "part": "body",
        "decode": "url",
        "version": "2",
        "vendor": "V",
        "os": "Linux",
        "desc": "text",
        "context": False,
        "deleted": 0,
    }
    [rule] = load_rules(write(tmp_path, device={"1": GOOD | fields}))
    assert (rule.protocol, rule.port, rule.is_http, rule.part, rule.decode) == (6, 8080, True, "body", "url")
    assert (rule.version, rule.vendor, rule.os, rule.desc) == ("2", "V", "Linux", "text")
    assert rule.context is False


def test_defaults(tmp_path: Path) -> None:
    """Without optional fields: any transport, any port, not only HTTP, the whole payload."""
    [rule] = load_rules(write(tmp_path, device={"1": GOOD}))
    assert (rule.protocol, rule.port, rule.is_http, rule.part, rule.decode) == (None, 0, False, "total", None)
    assert (rule.version, rule.vendor, rule.os, rule.desc) == (None, None, None, None)
    assert rule.context is None


def test_the_class_is_the_files_name(tmp_path: Path) -> None:
    """The key inside may be anything, as in ly_probe's service.json; priority is accepted and not used."""
    write(tmp_path, service=json.dumps({"protocol": {"priority": 3, "rules": {"1": GOOD}}}))
    assert [rule.rule_class for rule in load_rules(tmp_path)] == ["service"]


def test_deleted_rules_are_skipped(tmp_path: Path) -> None:
    """The regex of a deleted rule may be anything, but its id is still in use."""
    write(tmp_path, os={"1": GOOD | {"deleted": 1, "regex": "("}, "2": GOOD}, threat={"1": GOOD})
    assert faults(tmp_path) == ["threat.json:4: rule 1: duplicate id; it is also used in os.json:4"]
    write(tmp_path, threat={"3": GOOD})
    assert [rule.rule_id for rule in load_rules(tmp_path)] == [2, 3]


def test_the_digest_changes_with_the_content(tmp_path: Path) -> None:
    """The same content gives the same digest."""
    first = load_rules(write(tmp_path, os={"1": GOOD})).digest
    assert load_rules(tmp_path).digest == first
    assert load_rules(write(tmp_path, os={"2": GOOD})).digest != first


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    """All faults of all files are reported, with line, rule and field."""
    write(
        tmp_path,
        service="""{"service": {"rules": {
            "1": {"type": "T", "name": "N", "regex": "a(b",
                  "colour": "red",
                  "port": "80"},
            "2": {"type": "", "name": "N",
                  "name": "M"},
            "02": {"type": "T", "name": "N", "regex": "x"}
        }}}""",
        os='{"os": {"rules": [], "extra": 1, "priority": "high"}}',
        threat='{"threat": {"rules": {"1": 5, "3": {"type": "T", "name": "N", "regex": "(a)\\\\1"}}}',
        midware="""{"midware": {"rules": {
            "4": {"type": "T", "name": "N", "regex": "x", "is_http": 1,
                  "protocol": "UDP"},
            "5": {"type": "T", "name": "N", "regex": "x", "decode": "url"},
            "6": {"type": "T", "name": "N", "regex": "x*"}
        }}}""",
    )
    assert faults(tmp_path) == [
        "service.json:3: rule 1: colour: unknown field; expected one of " + ", ".join(FIELDS),
        'service.json:4: rule 1: port: expected a number from 0 to 65535, found "80"',
        "service.json:6: rule 2: name: duplicate field; it is also set in line 5",
        'service.json:5: rule 2: type: expected a non-empty string, found ""',
        "service.json:5: rule 2: regex: missing; expected a non-empty string",
        "service.json:7: rule 02: invalid id; "
        "expected a decimal number from 1 to 999999999, without leading zeros",
        "os.json:1: rules: expected an object of rules by id",
        "os.json:1: extra: unknown field; expected priority or rules",
        'os.json:1: priority: expected a number, found "high"',
        "midware.json:3: rule 4: protocol: a rule for HTTP over UDP can never match; use tcp or no protocol",
        "midware.json:4: rule 5: decode: only HTTP is decoded; set is_http to 1 in this rule",
        "midware.json:5: rule 6: regex: the expression must not match the empty string",
        "threat.json:1: invalid JSON: Expecting ',' delimiter at column 83",
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "os.json:1: invalid JSON: Expecting value at column 1"),
        (b"[]", 'os.json:1: expected an object with one key, such as {"os": …}'),
        (b"{}", 'os.json:1: expected an object with one key, such as {"os": …}'),
        (b'{"os": {}, "threat": {}}', 'os.json:1: expected an object with one key, such as {"os": …}'),
        (b'{"os": []}', 'os.json:1: os: expected an object with "rules"'),
        (b'{"os": {}}', 'os.json:1: os: "rules" is missing in this object'),
        (b'{"os": \xff}', "os.json: not UTF-8: invalid byte 0xff"),
        (
            b"[" * 100_000,
            "os.json: JSON with too long a number or too deep nesting: maximum recursion depth exceeded",
        ),
        (b'{"os": {"rules": {"1": null}}}', "os.json:1: rule 1: expected an object, found null"),
        (
            b'{"os": {"rules": {"1": {"type": "T", "name": "N", "regex": "\\ud800"}}}}',
            "os.json:1: rule 1: regex: the text contains a lone surrogate",
        ),
    ],
)
def test_faults_of_files(tmp_path: Path, content: bytes, fault: str) -> None:
    """A file that is not a rule file gives one fault that says what was expected."""
    (tmp_path / "os.json").write_bytes(content)
    [found] = faults(tmp_path)
    assert found.startswith(fault)


def test_a_directory_without_rule_files_is_a_fault(tmp_path: Path) -> None:
    """A sensor without rules would be blind without anyone knowing."""
    names = "service.json, device.json, os.json, midware.json, threat.json"
    assert faults(tmp_path) == [f": no rule file in this directory; expected one of {names}"]
    with pytest.raises(RulesError, match="nowhere"):
        load_rules(tmp_path / "nowhere")


def test_an_unreadable_file_is_a_fault(tmp_path: Path) -> None:
    """A directory in the place of a rule file is a fault."""
    (tmp_path / "os.json").mkdir()
    assert faults(tmp_path)[0] == "os.json: cannot be read: Is a directory"


def test_lenient_skips_and_reports_faulty_rules(tmp_path: Path) -> None:
    """A lenient load works as ly_probe does: valid rules are loaded."""
    write(tmp_path, os={"1": GOOD | {"regex": "("}, "2": GOOD}, threat="no json")
    rules = load_rules(tmp_path, lenient=True)
    assert [rule.rule_id for rule in rules] == [2]
    assert [(fault.path.name, fault.rule_id, fault.field) for fault in rules.faults] == [
        ("os.json", "1", "regex"),
        ("threat.json", None, None),
    ]


def test_lenient_needs_a_usable_file(tmp_path: Path) -> None:
    """If nothing is left after skipping, a lenient load fails too."""
    with pytest.raises(FaultyRulesError):
        load_rules(write(tmp_path, os="no json"), lenient=True)
