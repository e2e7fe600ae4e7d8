"""The settings file that ``sensor config init`` writes: every setting, explained and commented out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from sensor.config.settings import Settings

_WIDTH = 100
_HEAD = """\
# Settings of sensor. What stands here is overridden by SENSOR_* variables, and these by flags.
# Take the # off a setting to change it; `sensor config check` says what is wrong with this file,
# `sensor config show` which value comes from where.
"""


def template() -> str:
    """Return the file's text; with the ``#`` off every setting it is valid TOML with valid values."""
    parts = ["\n".join(_lines(name, field)) for name, field in Settings.model_fields.items()]
    return "\n\n".join([_HEAD.rstrip(), *parts]) + "\n"


def toml(value: Any) -> str:
    """Write a value of a setting as TOML does; what is not set has no value there, and is ``none``."""
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml(one) for one in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)  # its escapes are TOML's, too


def _lines(name: str, field: FieldInfo) -> Iterator[str]:
    """Explain a setting; then its default, or an example where the default says nothing."""
    text = (field.description or "").replace("``", "`")
    if get_origin(field.annotation) is Literal:
        text += f" One of: {', '.join(get_args(field.annotation))}."
    if field.examples:
        text += f" By default {'our own' if isinstance(field.default, Path) else 'none'}; for example:"
    yield from wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    yield f"#{name} = {toml(field.examples[0] if field.examples else field.default)}"
