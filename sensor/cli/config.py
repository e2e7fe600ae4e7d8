"""``sensor config``: show, check and create a settings file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sensor.cli.setting_options import config_option
from sensor.cli.terminal import print_escaped, print_json, print_line, print_lines
from sensor.config.definitions import toml
from sensor.config.loading import load_settings, read_given
from sensor.config.settings import Settings
from sensor.config.template import template
from sensor.errors import SettingsError


@click.group("config")
def config_group() -> None:
    """Show, check and create a settings file."""


@config_group.command("show")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_command(config: Path | None, as_json: bool) -> None:
    """Show the value of every setting and where it comes from.

    That is a default, the file or a variable. The flags of the other commands override all three.
    """
    settings = load_settings({}, config)
    given = read_given(config)
    sources = {name: given[name].source if name in given else "default" for name in Settings.model_fields}
    values = settings.model_dump(mode="json")
    if as_json:
        found = {name: {"value": values[name], "source": source} for name, source in sources.items()}
        print_json(found)
        return
    for name, source in sources.items():
        print_line(f"{name:<20} {toml(values[name]):<30} {source}")


@config_group.command("check")
@config_option
def check_command(config: Path | None) -> None:
    """Print every fault in the settings and exit with 2, or print `ok`."""
    from sensor.doctor.setting_faults import find_faults, misspelt_variables  # slow to load

    for warning in misspelt_variables():
        print_line(warning, err=True)
    faults = list(find_faults(config))
    print_lines(faults or ["ok"])
    if faults:
        sys.exit(SettingsError.exit_code)


@config_group.command("init")
@click.argument("path", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
def init_command(path: Path | None) -> None:
    """Create a settings file that explains every setting.

    Every setting is commented out. Never overwrites a file. Without FILE, print the settings instead.
    """
    if path is None:
        print_escaped(template())
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError as error:
        raise SettingsError(f"{path}: already exists and is not overwritten; name another file") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error.strerror}") from error
