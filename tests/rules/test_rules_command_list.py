"""`sensor rules list` and `show`: the rules in use, and the fields of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import RULES, sensor, write_rules


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Return a directory with a few rules."""
    return write_rules(tmp_path)


def test_list_names_every_rule_in_use(rules: Path) -> None:
    """One line per rule, in class and file order, with what it looks at; deleted rules are left out."""
    done = sensor("rules", "list", "--rules", rules)
    assert done.code == 0
    assert done.out == (
        "10001  service  Remote access  SSH            tcp\n"
        "10002  service  Names          DNS            udp, port 53\n"
        "41001  midware  Web server     nginx          HTTP head\n"
        "51001  threat   Web attack     SQL injection  HTTP head, url-decoded\n"
        "51002  threat   Web attack     SQL in a form  HTTP body\n"
        "51003  threat   Web attack     Plain          HTTP head\n"
    )


def test_list_of_one_class(rules: Path) -> None:
    """Other classes are left out; a class without rules gives an empty list."""
    done = sensor("rules", "list", "--rules", rules, "--class", "service", "--json")
    assert [rule["rule"] for rule in done.objects] == [10001, 10002]
    assert sensor("rules", "list", "--rules", rules, "--class", "device").out == ""


def test_json_holds_all_fields_of_the_file(rules: Path) -> None:
    """Fields have the names of the rule file; fields that are not set are null."""
    for found in sensor("rules", "list", "--rules", rules, "--json").objects:
        said = {name: value for name, value in found.items() if value is not None}
        number, rule_class = said.pop("rule"), said.pop("class")
        if said.get("part") == "total":
            del said["part"]
        assert said == RULES[rule_class][str(number)]
        assert [found] == sensor("rules", "show", number, "--rules", rules, "--json").objects


def test_show_prints_one_field_per_line(rules: Path) -> None:
    """Fields that are not set are left out."""
    done = sensor("rules", "show", "41001", "--rules", rules)
    assert done.out.splitlines() == [
        "rule     41001",
        "class    midware",
        "type     Web server",
        "name     nginx",
        r"regex    \r\nServer: nginx(?:/([\d.]+))?",
        "is_http  1",
        "part     head",
        "os       Linux",
        "desc     nginx documentation: server_tokens",
        "context  true",
    ]


@pytest.mark.parametrize("rule_id", ["7", "41002"])
def test_a_rule_that_is_not_in_use(rules: Path, rule_id: str) -> None:
    """An unknown or deleted rule gives one line of error and exit code 2."""
    done = sensor("rules", "show", rule_id, "--rules", rules)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"sensor: there is no rule {rule_id}; sensor rules list shows all rules\n"


def test_a_faulty_set_lists_nothing() -> None:
    """The faults are printed instead, as by `check`, and the exit code is 2."""
    faulty = Path(__file__).parents[1] / "corpus" / "faulty" / "port-too-high"
    done = sensor("rules", "list", "--rules", faulty)
    assert (done.code, done.out) == (2, "")
    assert "port: expected a number from 0 to 65535, found 65536" in done.err
