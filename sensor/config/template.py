"""The settings file that ``sensor config init`` writes: every setting, explained and commented out."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from sensor.config.definitions import DEFINITIONS, Definition, toml

_WIDTH = 100
_HEAD = """\
# Settings of sensor. SENSOR_* variables override this file, and flags override both.
# Remove the # in front of a setting to change it. `sensor config check` lists what is wrong with this file,
# `sensor config show` prints every value and where it comes from.
"""


def template() -> str:
    """Return the text of the file; without the ``#`` in front of settings it is TOML with valid values."""
    parts = ["\n".join(_lines(one)) for one in DEFINITIONS.values()]
    return "\n\n".join([_HEAD.rstrip(), *parts]) + "\n"


def _lines(setting: Definition) -> Iterator[str]:
    """Explain a setting, then give its default, or an example if the default is not a value of TOML."""
    text = setting.help
    if setting.choices:
        text += f" One of: {', '.join(setting.choices)}."
    if setting.flag.unit:
        text += f" Unit: {setting.flag.unit}."
    if setting.example is not None:
        text += f" Default: {setting.default_text}; for example:"
    yield from wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    yield f"#{setting.name} = {toml(setting.default if setting.example is None else setting.example)}"
