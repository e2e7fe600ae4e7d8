"""``sensor serve``: the evidence API and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sensor.cli.setting_options import setting_options
from sensor.config.loading import load_settings


@click.command("serve")
@setting_options("serve")
@click.option("--until-eof", is_flag=True, hidden=True, help="Stop at the end of standard input.")
def serve_command(config: Path | None, until_eof: bool, **flags: Any) -> None:
    """Serve evidence over HTTP: search, downloads, and a web page."""
    from sensor.api.server import serve  # imports a web server, which no other command needs

    serve(load_settings(flags, config), until_eof=until_eof)
