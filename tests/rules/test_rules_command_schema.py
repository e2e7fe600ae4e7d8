"""`sensor rules schema` and `sensor rules check` agree on everything that depends on fields alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from commands import sensor
from jsonschema import Draft202012Validator

from sensor.config.settings import BUNDLED_RULES
from sensor.rules.files.fields import FIELDS, REQUIRED
from sensor.rules.files.load import load_rules
from sensor.rules.files.rule_fault import FaultyRulesError

FAULTY = Path(__file__).parents[1] / "corpus" / "faulty"
SEEN_BY_CHECK_ALONE = ("id-twice", "field-twice", "regex-", "no-rule-file", "control-characters")
PYTHON_ALONE_ACCEPTS = ("protocol-with-a-newline",)
"""In ECMA-262, which JSON Schema follows, ``$`` does not match before a final newline."""
RULE = {"type": "Web attack", "name": "A rule", "regex": "attack"}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, 1.0, 0.5, 80, 65535, 65536, 2**31, 1e300, [], {}, [1]),
    *(
        "",
        " ",
        "1",
        "tcp",
        "TCP",
        "uDp",
        "icmp",
        "tcp ",
        "head",
        "Head",
        "body",
        "total",
        "url",
        "URL",
        "any",
    ),
)


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    """Return the schema that the command prints."""
    text = sensor("rules", "schema").out
    Draft202012Validator.check_schema(json.loads(text))
    return Draft202012Validator(json.loads(text))


def documents() -> Iterator[Any]:
    """Yield valid and invalid rule files: each field with each value, and fields that depend on others."""
    rules: list[Any] = [{**RULE, name: value} for name in [*FIELDS, "Regex", "id"] for value in VALUES]
    rules += [{name: RULE[name] for name in REQUIRED if name != missing} for missing in REQUIRED]
    choices = {
        "protocol": (None, "tcp", "UDP"),
        "is_http": (None, 0, 1, 1.0),
        "part": (None, "head"),
        "decode": (None, "url"),
        "deleted": (None, 0, 1),
    }
    for values in product(*choices.values()):
        chosen = zip(choices, values, strict=True)
        rules.append(RULE | {name: value for name, value in chosen if value is not None})
    yield from ({"threat": {"rules": {"50001": rule}}} for rule in [*rules, None, [], "attack"])
    for rule_id in ("0", "1", "01", "x", "", "-1", "1.0", "999999999", "1000000000", "\u0661"):
        yield {"threat": {"rules": {rule_id: RULE}}}
    yield from ({"threat": {"priority": value, "rules": {}}} for value in VALUES)
    yield from ({"threat": {"rules": value}} for value in VALUES)
    yield from ({"threat": value} for value in VALUES)
    yield from VALUES
    yield from ({"threat": {}}, {"threat": {"rules": {}, "rule": {}}}, {"threat": {"rules": {}}, "os": {}})
    yield {"any key": {"rules": {"1": RULE}}}


def test_schema_and_check_agree_on_every_field(schema: Draft202012Validator, tmp_path: Path) -> None:
    """A file that one accepts, the other accepts too."""
    path = tmp_path / "threat.json"
    verdicts = set()
    for document in documents():
        path.write_text(json.dumps(document))
        try:
            load_rules(tmp_path)
            problem = None
        except FaultyRulesError as error:
            problem = str(error)
        verdicts.add(problem is None)
        assert schema.is_valid(document) == (problem is None), f"{document}: {problem}"
    assert verdicts == {True, False}


@pytest.mark.parametrize("path", sorted(BUNDLED_RULES.glob("*.json")), ids=lambda path: path.name)
def test_our_own_rules_satisfy_the_schema(schema: Draft202012Validator, path: Path) -> None:
    """Each rule file of the project is valid."""
    schema.validate(json.loads(path.read_text()))


@pytest.mark.parametrize("directory", sorted(FAULTY.iterdir()), ids=lambda path: path.name)
def test_the_schema_refuses_the_faulty_files(schema: Draft202012Validator, directory: Path) -> None:
    """The schema refuses all faulty files, except those with faults that only `check` can find."""
    verdicts = []
    for path in directory.glob("*.json"):
        try:
            verdicts.append(schema.is_valid(json.loads(path.read_bytes())))
        except ValueError:
            verdicts.append(False)
    assert all(verdicts) == directory.name.startswith((*SEEN_BY_CHECK_ALONE, *PYTHON_ALONE_ACCEPTS))


def test_an_editor_can_explain_each_field(schema: Draft202012Validator) -> None:
    """Each field has a description that says what it means and which values are allowed."""
    rule = schema.schema["additionalProperties"]["properties"]["rules"]["additionalProperties"]
    for name, field in FIELDS.items():
        assert field.description in rule["properties"][name]["description"]
        assert field.expected in rule["properties"][name]["description"]
