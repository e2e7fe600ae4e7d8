"""Settings as flags: the options of a command, made from the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sensor.config.definitions import Definition, definitions_of

_Command = Callable[..., Any]
_PATH = click.Path(path_type=Path)

config_option = click.option(
    "--config",
    type=_PATH,
    metavar="FILE",
    help="Settings file (TOML).  [default: the file named by $SENSOR_CONFIG]",
)


def setting_options(command: str, *, config: bool = True) -> Callable[[_Command], _Command]:
    """Return a decorator that adds ``--config`` and a flag for each setting of a command.

    The function gets the values by the settings' names; None means that the flag was not given.

    Args:
        command: The full name without ``sensor``: ``evidence list``.
        config: False leaves ``--config`` out.
    """

    def decorate(function: _Command) -> _Command:
        for setting in reversed(list(definitions_of(command))):
            function = _option(setting, command)(function)
        return config_option(function) if config else function

    return decorate


def _option(setting: Definition, command: str) -> Callable[[_Command], _Command]:
    flag = setting.flag
    names = [flag.short] * bool(flag.short) + [setting.option]
    text = _help(setting, command)
    if setting.kind is bool:
        if setting.default:
            names = [f"{setting.option}/--no-{setting.option.removeprefix('--')}"]
        return click.option(*names, is_flag=True, default=None, help=text)
    if setting.choices:
        return click.option(*names, type=click.Choice(setting.choices), help=text)
    kind = _PATH if setting.kind is Path else setting.kind
    metavar = flag.metavar or flag.unit.upper()
    if setting.is_multiple:
        return click.option(
            *names, type=kind, multiple=True, callback=_none_if_empty, metavar=metavar, help=text
        )
    return click.option(*names, type=kind, metavar=metavar, help=text)


def _help(setting: Definition, command: str) -> str:
    meaning = setting.flag.differs.get(command)
    text = meaning.help if meaning else setting.help
    if setting.is_multiple:
        text += " Repeat the flag for more."
    return f"{text}  [default: {_default(setting, command)}]" if setting.default is not False else text


def _default(setting: Definition, command: str) -> str:
    meaning = setting.flag.differs.get(command)
    if meaning and meaning.default:
        return meaning.default
    if setting.kind is bool:
        return setting.option
    unit = f" {setting.flag.unit}" if setting.flag.unit and setting.has_literal_default else ""
    return setting.default_text + unit


def _none_if_empty(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Return None for a flag that was not given, so that other sources of the setting count."""
    return values or None
