"""``sensor rules reload``: tells the running sensor to load its rules anew."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from sensor.config.settings import load_settings
from sensor.errors import EvidenceError, PrivilegeError
from sensor.evidence.writer import writing_process

_PATH = click.Path(path_type=Path)


@click.command("reload")
@click.option("--config", type=_PATH, help="Settings file (TOML).")
@click.option("--evidence", type=_PATH, help="Directory of the evidence that sensor writes.  [/data/cap]")
@click.option("--devid", type=int, help="Its device number.  [3]")
def reload_command(config: Path | None, evidence: Path | None, devid: int | None) -> None:
    """Load the rules of the running sensor anew, as SIGHUP does; the outcome is in its log."""
    settings = load_settings({"evidence": evidence, "devid": devid}, config)
    process = writing_process(settings.evidence, settings.devid)
    if process is None:
        raise EvidenceError(
            f"no sensor writes to {settings.evidence / str(settings.devid)}; "
            "name the running one's --evidence and --devid"
        )
    try:
        os.kill(process, signal.SIGHUP)
    except PermissionError as error:
        raise PrivilegeError(f"process {process} is another user's: run this with sudo") from error
    click.echo(f"process {process} loads its rules anew; the outcome is in its log")
