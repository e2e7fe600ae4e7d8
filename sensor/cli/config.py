"""``sensor config``: where each setting comes from, what is wrong with them, and a file to start with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from sensor.config.settings import Settings, load_settings, read_given
from sensor.config.template import template, toml
from sensor.errors import SettingsError

_PATH = click.Path(path_type=Path)

_config = click.option("--config", type=_PATH, help="Settings file (TOML).  [$SENSOR_CONFIG]")


@click.group("config")
def config_group() -> None:
    """Show, check and begin a settings file."""


@config_group.command("show")
@_config
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_command(config: Path | None, as_json: bool) -> None:
    """Print every setting's value and where it comes from: default, file or variable.

    Flags of other commands win over all of them.
    """
    settings = load_settings({}, config)
    given = read_given(config)
    sources = {name: given[name].source if name in given else "default" for name in Settings.model_fields}
    values = settings.model_dump(mode="json")
    if as_json:
        found = {name: {"value": values[name], "source": source} for name, source in sources.items()}
        click.echo(json.dumps(found))
        return
    for name, source in sources.items():
        click.echo(f"{name:<20} {toml(values[name]):<30} {source}")


@config_group.command("check")
@_config
def check_command(config: Path | None) -> None:
    """Print every fault of the settings, a line each, and exit with 2; or `ok`."""
    from sensor.doctor.setting_faults import config_faults, unknown_variables  # brings much of what it checks

    for doubt in unknown_variables():
        click.echo(doubt, err=True)
    faults = list(config_faults(config))
    click.echo("\n".join(faults) or "ok")
    if faults:
        sys.exit(SettingsError.exit_code)


@config_group.command("init")
@click.argument("path", required=False, type=_PATH)
def init_command(path: Path | None) -> None:
    """Write a settings file with every setting explained and commented out; never over another file.

    Without PATH it is printed.
    """
    if path is None:
        click.echo(template(), nl=False)
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError as error:
        raise SettingsError(f"{path}: is there already, and is not overwritten; name another file") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error.strerror}") from error
