"""Flags, documents and the Ansible role describe the settings as the model does."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import click
import pytest
import yaml

from sensor import abi
from sensor.cli import cli
from sensor.config.__main__ import PAGE, ROLE, with_block
from sensor.config.definitions import DEFINITIONS, Definition
from sensor.config.loading import load_settings, read_given
from sensor.config.settings import Settings
from sensor.config.table import role_options, settings_table

FIELDS = Settings.model_fields
NOT_SETTINGS = {("evidence list", "devid"), ("evidence export", "devid"), ("evidence show", "devid"),
                ("evidence verify", "devid"), ("bench replay", "profile"), ("bench replay", "workers"),
                ("bench replay", "interface"), ("evidence hold", "devid"),
                ("evidence conversation", "devid"), ("evidence conversations", "devid")}  # fmt: skip
"""Flags of commands that have the name of a setting and another meaning."""


def walk(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command without subcommands, with its full name."""
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            yield from walk(subcommand, f"{name} {subcommand.name}".strip())
    else:
        yield name, command


COMMANDS = dict(walk(cli))


def flags(name: str) -> dict[str, click.Option]:
    """Return the options of a command that set something, by setting."""
    options = [one for one in COMMANDS[name].params if isinstance(one, click.Option)]
    found = {}
    for option in options:
        setting = option.opts[-1].removeprefix("--").replace("-", "_")
        if setting in FIELDS and (name, setting) not in NOT_SETTINGS:
            found[setting] = option
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_have_the_flags_that_the_model_gives_them(name: str) -> None:
    """A command has the flags of the model and no others."""
    assert flags(name).keys() == {one.name for one in DEFINITIONS.values() if one.flag.is_of(name)}


def test_flags_belong_to_commands_that_exist() -> None:
    """Each command that a setting names is a command or a group."""
    groups = {name.partition(" ")[0] for name in COMMANDS}
    for setting in DEFINITIONS.values():
        assert set(setting.flag.commands) | set(setting.flag.differs) <= COMMANDS.keys() | groups


@pytest.mark.parametrize("name", COMMANDS)
def test_flags(name: str) -> None:
    """A flag has the name, kind and choices of its setting, and its help is the text and the default."""
    for setting, option in flags(name).items():
        definition = DEFINITIONS[setting]
        assert option.name == setting
        assert option.multiple == definition.is_multiple
        assert option.is_flag == (definition.kind is bool)
        assert isinstance(option.type, click.Choice) == bool(definition.choices)
        if isinstance(option.type, click.Choice):
            assert tuple(option.type.choices) == definition.choices
        if name not in definition.flag.differs:
            assert (option.help or "").startswith(definition.help)
            assert shown_default(definition) in (option.help or "")


def shown_default(definition: Definition) -> str:
    """Return the default as the help of a flag shows it."""
    if definition.default is False:
        return ""
    if definition.default is True:
        return f"[default: {definition.option}]"
    unit = f" {definition.flag.unit}" if definition.flag.unit and definition.has_literal_default else ""
    return f"[default: {definition.default_text}{unit}]"


def test_help_of_read_says_that_no_evidence_is_kept() -> None:
    """The default of the setting is not that of the command."""
    assert "[default: no evidence is kept]" in (flags("read")["evidence"].help or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_no_internal_names(name: str) -> None:
    """Placeholders of values are words, not names of Python functions."""
    text = COMMANDS[name].get_help(click.Context(COMMANDS[name], info_name=name))
    assert " _" not in text
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option) and not option.is_flag:
            assert isinstance(option.type, click.Choice) or option.metavar, option.name


@pytest.mark.parametrize(
    "group", [cli, *(one for one in cli.commands.values() if isinstance(one, click.Group))]
)
def test_summaries_in_help_are_whole(group: click.Group) -> None:
    """The list of commands shows the first sentence of each, which fits on a line."""
    text = group.get_help(click.Context(group, info_name="sensor", terminal_width=80))
    assert "..." not in text.split("Commands:")[1]


@pytest.mark.parametrize("name", ["run", "read", "serve"])
def test_a_flag_that_is_not_given_hides_nothing(name: str) -> None:
    """A flag has no default of its own."""
    arguments = ["file"] if name == "read" else []
    given = COMMANDS[name].make_context("sensor", arguments).params
    assert {setting for setting in flags(name) if given[setting] is not None} == set()


def test_every_setting_has_a_flag() -> None:
    """Each setting is a flag of `sensor run` or `sensor serve`."""
    assert flags("run").keys() | flags("serve").keys() == FIELDS.keys()


def test_short_forms_and_opposites() -> None:
    """`-i` names an interface, and `--no-api` turns the API off."""
    given = COMMANDS["run"].make_context("sensor", ["-i", "eth1", "-i", "eth2", "--no-api"]).params
    assert (given["interface"], given["api"]) == (("eth1", "eth2"), False)


def test_every_setting_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable has the name in capitals."""
    for name in FIELDS:
        monkeypatch.setenv(f"SENSOR_{name.upper()}", name)
    assert {name: one.value for name, one in read_given(None).items()} == {name: name for name in FIELDS}


def test_help_texts_are_sentences() -> None:
    """Each text starts with a capital, ends with a full stop and fits into a table."""
    for definition in DEFINITIONS.values():
        assert definition.help[0].isupper(), definition.name
        assert definition.help.endswith("."), definition.name
        assert "|" not in definition.help


def test_figures_in_help_texts() -> None:
    """The memory of a flow and the limit of the payload are those of the program."""
    assert f"{abi.FLOW_SET.itemsize // abi.FLOW_WAYS} bytes each" in DEFINITIONS["flows"].help
    assert Settings(events_payload=16384).events_payload == 16384
    assert "at most 16384" in DEFINITIONS["events_payload"].help


def test_the_page_has_the_table_of_the_model() -> None:
    """`make settings` would change nothing."""
    text = PAGE.read_text()
    assert with_block(text, settings_table()) == text


def test_the_example_of_the_page_is_valid(tmp_path: Path) -> None:
    """The settings file on the page can be used."""
    example = PAGE.read_text().partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "sensor.toml"
    path.write_text(example)
    settings = load_settings({}, path)
    assert len(settings.networks_include) == 2
    assert len(settings.model_fields_set) == len(tomllib.loads(example))


@pytest.mark.skipif(not ROLE.exists(), reason="the role is not there")
def test_the_role_has_the_options_of_the_model() -> None:
    """`sensor_settings` has every setting but the interfaces; `make settings` would change nothing."""
    text = ROLE.read_text()
    assert with_block(text, indent(role_options(), " " * 10)) == text
    options = yaml.safe_load(text)["argument_specs"]["main"]["options"]
    assert "sensor_interfaces" in options
    settings = options["sensor_settings"]["options"]
    assert list(settings) == [name for name in FIELDS if name != "interface"]
    for name, option in settings.items():
        definition = DEFINITIONS[name]
        assert option["description"].startswith(definition.help)
        assert (option["type"] == "list") == definition.is_multiple
        assert tuple(option.get("choices", ())) == definition.choices
    defaults = yaml.safe_load((ROLE.parents[1] / "defaults" / "main.yml").read_text())
    assert defaults["sensor_settings"].keys() <= settings.keys()
