"""Reading the settings: a TOML file, ``SENSOR_*`` variables and flags, checked against the model.

Runs once in each command. A later source wins: defaults, then the file, then the environment, then flags. The
file is the one named by ``--config``, or else by the variable ``SENSOR_CONFIG``.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from sensor.config.settings import Settings
from sensor.errors import SettingsError


class Given(NamedTuple):
    """A value and the source it comes from."""

    value: Any
    source: str
    """``file /etc/sensor/sensor.toml``, ``variable SENSOR_KEEP``, or empty for a flag."""


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Read all sources and return the settings.

    Args:
        flags: Values of the flags by setting; None means that the flag was not given.
        config: The settings file, instead of the one that ``SENSOR_CONFIG`` names.

    Raises:
        SettingsError: the file cannot be read, a name is unknown, or a value is out of range.
    """
    given = read_given(config)
    given |= {name: Given(value, "") for name, value in flags.items() if value is not None}
    settings, faults = validate(given)
    if faults:
        raise SettingsError("; ".join(faults))
    return settings


def read_given(config: Path | None) -> dict[str, Given]:
    """Return the values that file and environment set, by name; nothing is validated.

    Raises:
        SettingsError: the file cannot be read, or is not TOML.
    """
    named = os.environ.get("SENSOR_CONFIG")
    path = config or (Path(named) if named else None)
    given = {name: Given(value, f"file {path}") for name, value in _read_file(path).items()} if path else {}
    return given | {
        name: Given(value, f"variable {variable_of(name)}")
        for name, value in _read_environment(os.environ).items()
    }


def validate(given: Mapping[str, Given]) -> tuple[Settings, list[str]]:
    """Return the settings and a line for each fault; a setting with a fault has its default."""
    try:
        return Settings(**{name: one.value for name, one in given.items()}), []
    except ValidationError as error:
        faults = error.errors()
    faulty = {fault["loc"][0] for fault in faults}
    valid = {name: one.value for name, one in given.items() if name not in faulty}
    return Settings(**valid), [_fault_line(fault, given) for fault in faults]


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"SENSOR_{name.upper()}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the most similar of ``names``; None if none is similar."""
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return _flat(tomllib.load(file))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a TOML file: {error}") from error
    except (RecursionError, ValueError) as error:  # a number of thousands of digits
        raise SettingsError(f"{path}: a value is nested too deeply, or too long: {error}") from error


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``[networks] include`` as ``networks_include``, and dashes as underscores."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = prefix + key.replace("-", "_")
        flat |= _flat(value, f"{name}_") if isinstance(value, dict) else {name: value}
    return flat


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    variables = {name: variable_of(name) for name in Settings.model_fields}
    return {name: environment[variable] for name, variable in variables.items() if variable in environment}


def _fault_line(fault: Any, given: Mapping[str, Given]) -> str:
    name = str(fault["loc"][0])
    source = f", from {given[name].source}" if given[name].source else ""
    if fault["type"] == "extra_forbidden":
        similar = nearest(name, Settings.model_fields)
        return f"{name}: there is no such setting{f'; did you mean {similar}?' if similar else ''}{source}"
    return f"{name}: {fault['msg'].removeprefix('Value error, ')} (is {fault['input']!r}){source}"
