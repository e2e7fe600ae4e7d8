"""The definition of each setting, read from the model's fields, for flags, documents and the Ansible role."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from sensor.config.flag import Flag
from sensor.config.settings import Settings


class Definition(NamedTuple):
    """A setting."""

    name: str
    help: str
    """The meaning in full sentences, on one line."""
    flag: Flag
    kind: type
    """``bool``, ``int``, ``float``, ``str`` or ``Path``; for several values, ``str``."""
    is_multiple: bool
    choices: tuple[str, ...]
    """The allowed values; empty: any."""
    default: Any
    example: Any
    """An example value for settings files; None if the default serves as the example."""

    @property
    def option(self) -> str:
        """The long form of the flag: ``--ring-mib``."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def default_text(self) -> str:
        """The default as documents show it: ``64``, ``none``, ``unlimited``."""
        if self.flag.unset:
            return self.flag.unset
        if self.default in (None, ()):
            return "none"
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def has_literal_default(self) -> bool:
        """True if `default_text` is the value itself and not a description."""
        return not self.flag.unset and self.default not in (None, ())


def toml(value: Any) -> str:
    """Return the value of a setting as TOML writes it; ``none`` for a setting without one."""
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml(one) for one in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)  # TOML has the escapes of JSON


def _define(name: str, field: FieldInfo) -> Definition:
    [flag] = [one for one in field.metadata if isinstance(one, Flag)]
    annotation: Any = field.annotation
    if get_origin(annotation) is UnionType:
        [annotation] = [one for one in get_args(annotation) if one is not type(None)]
    is_multiple, is_choice = get_origin(annotation) is tuple, get_origin(annotation) is Literal
    return Definition(
        name=name,
        help=" ".join((field.description or "").split()),
        flag=flag,
        kind=str if is_multiple or is_choice else annotation,
        is_multiple=is_multiple,
        choices=get_args(annotation) if is_choice else (),
        default=field.default,
        example=field.examples[0] if field.examples else None,
    )


DEFINITIONS = {name: _define(name, field) for name, field in Settings.model_fields.items()}
"""Every setting, by name, in the order of the model."""


def definitions_of(command: str) -> Iterator[Definition]:
    """Yield the settings that a command has as flags; its name is written like ``evidence list``."""
    return (one for one in DEFINITIONS.values() if one.flag.is_of(command))
