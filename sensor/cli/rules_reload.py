"""``sensor rules reload``: makes the running sensor reload its rules."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_line
from sensor.config.loading import load_settings
from sensor.errors import EvidenceError, PrivilegeError
from sensor.evidence.directory_lock import writing_process


@click.command("reload")
@setting_options("rules reload")
def reload_command(config: Path | None, evidence: Path | None, devid: int | None) -> None:
    """Make the running sensor reload its rules.

    Sends SIGHUP. The sensor's log has the result.
    """
    settings = load_settings({"evidence": evidence, "devid": devid}, config)
    directory = settings.evidence / str(settings.devid)
    try:
        process = writing_process(settings.evidence, settings.devid)
    except OSError as error:
        raise EvidenceError(f"{directory}: the process that writes there is not known: {error}") from error
    if process is None:
        raise EvidenceError(
            f"no sensor writes to {directory}; name the running sensor's --evidence and --devid"
        )
    try:
        os.kill(process, signal.SIGHUP)
    except PermissionError as error:
        raise PrivilegeError(f"process {process} belongs to another user: run this with sudo") from error
    print_line(f"asked process {process} to reload its rules; its log has the result")
