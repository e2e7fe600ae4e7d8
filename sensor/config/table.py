"""The table of all settings in ``docs/settings.md``, and the options of the Ansible role."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from textwrap import wrap

from sensor.config.definitions import DEFINITIONS, Definition

_HEAD = "| setting | flag of | default | unit | meaning |\n|---|---|---|---|---|"
_KINDS = {bool: "bool", int: "int", float: "float", str: "str", Path: "path"}


def settings_table() -> str:
    """Return a table in Markdown with a row for each setting."""
    return "\n".join([_HEAD, *map(_row, DEFINITIONS.values())])


def _row(setting: Definition) -> str:
    default = setting.default_text
    cells = (
        f"`{setting.name}`" + (f" (`{setting.flag.short}`)" if setting.flag.short else ""),
        ", ".join(_commands(setting)),
        f"`{default}`" if setting.has_literal_default else default,
        setting.flag.unit,
        re.sub(r"docs/(\w+\.md)", r"[\1](\1)", " ".join(_meaning(setting))),
    )
    return f"| {' | '.join(cells)} |"


def _commands(setting: Definition) -> Iterator[str]:
    """Yield the commands with the flag; those of one group together: ``rules list/show``."""
    for group, commands in groupby(setting.flag.commands, key=lambda command: command.partition(" ")[0]):
        subcommands = "/".join(command.partition(" ")[2] for command in commands)
        yield f"{group} {subcommands}".rstrip()


def _meaning(setting: Definition) -> Iterator[str]:
    yield setting.help
    for command, meaning in setting.flag.differs.items():
        default = f" Default: {meaning.default}." if meaning.default else ""
        yield f"For `sensor {command}`: {meaning.help[0].lower()}{meaning.help[1:]}{default}"


def role_options() -> str:
    """Return the options of ``sensor_settings`` as YAML; interfaces have a variable of their own."""
    lines = (line for one in DEFINITIONS.values() if one.name != "interface" for line in _option_lines(one))
    return "\n".join(lines)


def _option_lines(setting: Definition) -> Iterator[str]:
    yield f"{setting.name}:"
    yield "  description: >-"
    yield from wrap(
        " ".join(_role_description(setting)), 100, initial_indent="    ", subsequent_indent="    "
    )
    if setting.is_multiple:
        yield "  type: list"
        yield "  elements: str"
        return
    yield f"  type: {_KINDS[setting.kind]}"
    if setting.choices:
        # Quoted, because off without quotes is a boolean in YAML.
        yield f"  choices: [{', '.join(map(json.dumps, setting.choices))}]"


def _role_description(setting: Definition) -> Iterator[str]:
    yield setting.help
    if setting.flag.unit:
        yield f"Unit: {setting.flag.unit}."
    yield f"Default: {setting.default_text or 'empty'}."
