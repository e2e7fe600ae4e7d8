"""Rule files: what is read, in which order, and every fault with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import RulesError
from sensor.rules.files.fields import FIELDS
from sensor.rules.files.load import FaultyRulesError, load_rules

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
    """Classes in ly_probe's order, whatever the file system's; ids in the file's order, whatever they are."""
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
    """All fields of the language end up in the rule."""
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
        "deleted": 0,
    }
    [rule] = load_rules(write(tmp_path, device={"1": GOOD | fields}))
    assert (rule.protocol, rule.port, rule.is_http, rule.part, rule.decode) == (6, 8080, True, "body", "url")
    assert (rule.version, rule.vendor, rule.os, rule.desc) == ("2", "V", "Linux", "text")


def test_defaults(tmp_path: Path) -> None:
    """What is absent: any transport, any port, not only HTTP, the whole payload."""
    [rule] = load_rules(write(tmp_path, device={"1": GOOD}))
    assert (rule.protocol, rule.port, rule.is_http, rule.part, rule.decode) == (None, 0, False, "total", None)
    assert (rule.version, rule.vendor, rule.os, rule.desc) == (None, None, None, None)


def test_the_class_is_the_files_name(tmp_path: Path) -> None:
    """The key inside may be anything, as in ly_probe's service.json; priority is read and unused."""
    write(tmp_path, service=json.dumps({"protocol": {"priority": 3, "rules": {"1": GOOD}}}))
    assert [rule.rule_class for rule in load_rules(tmp_path)] == ["service"]


def test_deleted_rules_are_skipped(tmp_path: Path) -> None:
    """Such a rule is no rule, so its regex may be anything; its id is taken all the same."""
    write(tmp_path, os={"1": GOOD | {"deleted": 1, "regex": "("}, "2": GOOD}, threat={"1": GOOD})
    assert faults(tmp_path) == [
        "threat.json:4: rule 1: expected an id of its own, it stands in os.json:4 too"
    ]
    write(tmp_path, threat={"3": GOOD})
    assert [rule.rule_id for rule in load_rules(tmp_path)] == [2, 3]


def test_digest_tells_sets_apart(tmp_path: Path) -> None:
    """It is the content's, and changes with it."""
    first = load_rules(write(tmp_path, os={"1": GOOD})).digest
    assert load_rules(tmp_path).digest == first
    assert load_rules(write(tmp_path, os={"2": GOOD})).digest != first


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    """Every fault of every file, with line, rule and field."""
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
        "service.json:3: rule 1: colour: unknown field, expected one of " + ", ".join(FIELDS),
        'service.json:4: rule 1: port: expected a number from 0 to 65535, found "80"',
        "service.json:6: rule 2: name: expected once, it stands in line 5 too",
        'service.json:5: rule 2: type: expected a string that is not empty, found ""',
        "service.json:5: rule 2: regex: missing, expected a string that is not empty",
        "service.json:7: rule 02: expected as id a decimal number from 1 to 999999999, without leading zeros",
        "os.json:1: rules: expected an object of rules by id",
        "os.json:1: extra: unknown field, expected priority or rules",
        'os.json:1: priority: expected a number, found "high"',
        "midware.json:3: rule 4: protocol: "
        "a rule for HTTP over UDP can never apply, expected tcp or no protocol",
        "midware.json:4: rule 5: decode: only HTTP is decoded, expected is_http 1 in this rule",
        "midware.json:5: rule 6: regex: expected an expression that cannot match nothing at all",
        "threat.json:1: expected JSON: Expecting ',' delimiter at column 83",
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "os.json:1: expected JSON: Expecting value at column 1"),
        (b"[]", 'os.json:1: expected an object with one key, such as {"os": …}'),
        (b"{}", 'os.json:1: expected an object with one key, such as {"os": …}'),
        (b'{"os": {}, "threat": {}}', 'os.json:1: expected an object with one key, such as {"os": …}'),
        (b'{"os": []}', 'os.json:1: os: expected an object with "rules"'),
        (b'{"os": {}}', 'os.json:1: os: expected "rules" in this object'),
        (b'{"os": \xff}', "os.json: expected UTF-8 text, found the byte 0xff"),
        (b"[" * 100_000, "os.json: expected JSON of a sane size: maximum recursion depth exceeded"),
        (b'{"os": {"rules": {"1": null}}}', "os.json:1: rule 1: expected an object, found null"),
        (
            b'{"os": {"rules": {"1": {"type": "T", "name": "N", "regex": "\\ud800"}}}}',
            "os.json:1: rule 1: regex: expected text without lone surrogates",
        ),
    ],
)
def test_faults_of_files(tmp_path: Path, content: bytes, fault: str) -> None:
    """What is no rule file says what it should be."""
    (tmp_path / "os.json").write_bytes(content)
    [found] = faults(tmp_path)
    assert found.startswith(fault)


def test_a_directory_without_rule_files_is_a_fault(tmp_path: Path) -> None:
    """A sensor without rules would be confidently blind."""
    expected = (
        "expected one of service.json, device.json, os.json, midware.json, threat.json in this directory"
    )
    assert faults(tmp_path) == [f": {expected}"]
    with pytest.raises(RulesError, match="nowhere"):
        load_rules(tmp_path / "nowhere")


def test_an_unreadable_file_is_a_fault(tmp_path: Path) -> None:
    """Also where the file is no file."""
    (tmp_path / "os.json").mkdir()
    assert faults(tmp_path)[0] == "os.json: expected a readable file: Is a directory"


def test_lenient_skips_faulty_rules_and_says_which(tmp_path: Path) -> None:
    """As ly_probe does; what is right is loaded."""
    write(tmp_path, os={"1": GOOD | {"regex": "("}, "2": GOOD}, threat="no json")
    rules = load_rules(tmp_path, lenient=True)
    assert [rule.rule_id for rule in rules] == [2]
    assert [(fault.path.name, fault.rule_id, fault.field) for fault in rules.faults] == [
        ("os.json", "1", "regex"),
        ("threat.json", None, None),
    ]


def test_lenient_needs_a_file_that_can_be_read(tmp_path: Path) -> None:
    """Skipping everything is not lenient but blind."""
    with pytest.raises(FaultyRulesError):
        load_rules(write(tmp_path, os="no json"), lenient=True)
