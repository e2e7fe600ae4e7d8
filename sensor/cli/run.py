"""``sensor run``: capture on live interfaces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from sensor.cli.redraw import redraw
from sensor.cli.setting_options import setting_options
from sensor.config.loading import load_settings


@click.command("run")
@setting_options("run")
@click.option("--json", "as_json", is_flag=True, help="Print each match as a JSON object.")
def run_command(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Capture on network interfaces until SIGINT or SIGTERM.

    Packets that match a rule are kept as evidence. Run `sensor doctor` first to check this host.
    """
    from sensor.live.run import run  # imports pyroute2, which is slow to load

    settings = load_settings(flags, config)
    run(settings, redraw if sys.stderr.isatty() else None, as_json=as_json)
