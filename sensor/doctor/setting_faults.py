"""What is wrong with the settings, all of it in one run: their form, and what they name on this host.

Runs in ``sensor config check``, without root, BCC or a network. What only capturing can find out, ``sensor
doctor`` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sensor.api.access import tls_faults
from sensor.config.settings import Settings, nearest, read_given, validate, variable_of
from sensor.errors import SettingsError
from sensor.events.url import receiver_of
from sensor.model import RULE_CLASSES
from sensor.process.privileges import find_account


def config_faults(config: Path | None) -> Iterator[str]:
    """Say every fault in a line.

    Raises:
        SettingsError: The file cannot be read, or is no TOML: nothing else can be said of it.
    """
    settings, faults = validate(read_given(config))
    yield from faults
    yield from _rules_faults(settings.rules)
    if settings.evidence.exists() and not settings.evidence.is_dir():
        yield f"evidence: {settings.evidence}: is no directory"
    yield from event_faults(settings)
    if settings.api:
        yield from api_faults(settings)


def unknown_variables() -> Iterator[str]:
    """Say which variables are most likely meant for a setting, and none's: another program may use them."""
    variables = [variable_of(name) for name in Settings.model_fields]
    for variable in os.environ:
        if variable.startswith("SENSOR_") and variable not in (*variables, "SENSOR_CONFIG"):
            meant = nearest(variable, variables)
            if meant:
                yield f"{variable}: there is no such setting; is it {meant}?"


def _rules_faults(directory: Path) -> Iterator[str]:
    if not directory.is_dir():
        yield f"rules: {directory}: there is no such directory"
    elif not any((directory / f"{name}.json").is_file() for name in RULE_CLASSES):
        names = ", ".join(f"{name}.json" for name in RULE_CLASSES)
        yield f"rules: {directory}: has none of {names}"


def event_faults(settings: Settings) -> Iterator[str]:
    """Say which receivers cannot be used."""
    for url in settings.events:
        try:
            receiver_of(url)
        except SettingsError as error:
            yield str(error)


def api_faults(settings: Settings) -> Iterator[str]:
    """Say what the API cannot use; tokens are no settings, and made later."""
    try:
        find_account(settings.api_user)
    except SettingsError as error:
        yield str(error)
    yield from tls_faults(settings)
    if settings.audit and not settings.audit.parent.is_dir():
        yield f"audit: {settings.audit.parent}: there is no such directory"
