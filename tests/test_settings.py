"""Flags, documents and deployment say the same of the settings as their model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import pytest
import yaml

from sensor.cli.read import read_command, run_command
from sensor.cli.serve import serve_command
from sensor.config.settings import Settings, read_given

ROLE = Path(__file__).parents[1] / "ansible" / "roles" / "sensor"
OTHERS = {"config", "as_json", "until_eof", "files"}
FIELDS = Settings.model_fields
WORDS: dict[str, Any] = {
    "our own": FIELDS["rules"].default,
    "unlimited": None,
    "the log": None,
    "one for each receive queue": None,
    "UTC": False,
    "--api": True,
}
"""What flags say instead of a default."""


def flags(command: click.Command) -> dict[str, click.Parameter]:
    """The parameters of a command that set something."""
    return {str(one.name): one for one in command.params if one.name not in OTHERS}


@pytest.mark.parametrize("command", [run_command, read_command, serve_command], ids=lambda one: one.name)
def test_flags(command: click.Command) -> None:
    """Each is a setting, with its name, its kind, its choices and its default."""
    for name, flag in flags(command).items():
        field = FIELDS[name]
        assert isinstance(flag, click.Option)
        assert "--" + name.replace("_", "-") in flag.opts
        assert flag.multiple == (get_origin(field.annotation) is tuple)
        assert flag.is_flag == (field.annotation is bool)
        if get_origin(field.annotation) is Literal:
            assert isinstance(flag.type, click.Choice)
            assert tuple(flag.type.choices) == get_args(field.annotation)
        said = (flag.help or "").rpartition("  [")[2].removesuffix("]") if "  [" in (flag.help or "") else ""
        if said in WORDS:
            assert field.default == WORDS[said]
        elif said:
            assert type(field.default)(said) == field.default
        else:
            assert field.default in (None, (), False), f"{name}: its default is not said"


@pytest.mark.parametrize("command", [run_command, read_command, serve_command], ids=lambda one: one.name)
def test_a_flag_that_is_not_given_hides_nothing(command: click.Command) -> None:
    """It has no default of its own."""
    arguments = ["file"] if command is read_command else []
    given = command.make_context("sensor", arguments).params
    assert {name for name in flags(command) if given[name] is not None} == set()


def test_every_setting_has_a_flag() -> None:
    """Of `sensor run` or `sensor serve`."""
    assert flags(run_command).keys() | flags(serve_command).keys() == FIELDS.keys()


def test_every_setting_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name in capitals."""
    for name in FIELDS:
        monkeypatch.setenv(f"SENSOR_{name.upper()}", name)
    assert {name: one.value for name, one in read_given(None).items()} == {name: name for name in FIELDS}


def kind(annotation: Any) -> str:
    """What Ansible calls a type."""
    [only] = {one for one in get_args(annotation) or (annotation,) if one is not type(None)} or {annotation}
    return {bool: "bool", int: "int", float: "float", str: "str", Path: "path"}[only]


@pytest.mark.skipif(not ROLE.exists(), reason="the role is not there")
def test_the_role_takes_every_setting() -> None:
    """`sensor_settings` has all but the interfaces, with their kinds, choices and defaults."""
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]
    assert "sensor_interfaces" in options
    settings = options["sensor_settings"]["options"]
    assert settings.keys() == FIELDS.keys() - {"interface"}
    for name, option in settings.items():
        field = FIELDS[name]
        if get_origin(field.annotation) is tuple:
            assert option["type"] == "list", name
        elif get_origin(field.annotation) is Literal:
            assert option["choices"] == list(get_args(field.annotation)), name
        else:
            assert option["type"] == kind(field.annotation), name
        if "default" in option:
            assert option["default"] == field.default, name
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    assert defaults["sensor_settings"].keys() <= settings.keys()
