"""All faults in the settings: wrong values, and files, users and receivers that do not exist on this host.

Runs in ``sensor config check`` and ``sensor doctor``, without root, BCC or a network.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sensor.api.access_settings import tls_faults
from sensor.config.directories import MISSING, directory_fault
from sensor.config.loading import nearest, read_given, validate, variable_of
from sensor.config.settings import Settings
from sensor.errors import SettingsError
from sensor.events.url import receiver_of
from sensor.model import RULE_CLASSES
from sensor.process.privileges import find_account


def find_faults(config: Path | None) -> Iterator[str]:
    """Yield every fault as a line.

    Raises:
        SettingsError: the file cannot be read, or is not TOML.
    """
    settings, faults = validate(read_given(config))
    yield from faults
    yield from _rules_faults(settings.rules)
    evidence_fault = directory_fault(settings.evidence)
    if evidence_fault not in (None, MISSING):  # a missing one is created
        yield f"evidence: {settings.evidence}: {evidence_fault}"
    yield from event_faults(settings)
    if settings.api:
        yield from api_faults(settings)


def misspelt_variables() -> Iterator[str]:
    """Yield a line for each variable whose name is close to that of a setting.

    This is not a fault: another program may use the variable.
    """
    variables = [variable_of(name) for name in Settings.model_fields]
    for variable in os.environ:
        if variable.startswith("SENSOR_") and variable not in (*variables, "SENSOR_CONFIG"):
            similar = nearest(variable, variables)
            if similar:
                yield f"{variable}: there is no such setting; did you mean {similar}?"


def _rules_faults(directory: Path) -> Iterator[str]:
    fault = directory_fault(directory)
    names = [f"{name}.json" for name in RULE_CLASSES]
    try:
        if not fault and not any((directory / name).is_file() for name in names):
            fault = f"contains none of {', '.join(names)}"
    except OSError as error:
        fault = f"cannot be used: {error.strerror}"
    if fault:
        yield f"rules: {directory}: {fault}"


def event_faults(settings: Settings) -> Iterator[str]:
    """Yield a line for each receiver of events that cannot be used."""
    for url in settings.events:
        try:
            receiver_of(url)
        except SettingsError as error:
            yield str(error)


def api_faults(settings: Settings) -> Iterator[str]:
    """Yield the faults in the settings of the API; tokens are not settings, and are created later."""
    try:
        find_account(settings.api_user)
    except SettingsError as error:
        yield str(error)
    yield from tls_faults(settings)
    audit_fault = directory_fault(settings.audit.parent) if settings.audit else None
    if settings.audit and audit_fault:
        yield f"audit: {settings.audit.parent}: {audit_fault}"
