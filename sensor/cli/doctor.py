"""``sensor doctor``: is this host fit for capturing, and what has to be done?"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.read import run_command
from sensor.config.settings import load_settings
from sensor.errors import SensorError

if TYPE_CHECKING:
    from sensor.doctor.examination import Ran
    from sensor.finding import Finding

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}
_OF_RUN = [one for one in run_command.params if one.name not in ("interface", "as_json", "duration")]


@click.command("doctor", params=_OF_RUN)
@click.argument("interface", nargs=-1, metavar="[IFACE...]")
@click.option("--disk", is_flag=True, help="Try the evidence's disk: 64 MiB are written, and removed again.")
@click.option("--fix", is_flag=True, help="Mend what takes nothing from anybody, and look again.")
@click.option("--quiet", is_flag=True, help="Print warnings and errors alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor_command(
    interface: tuple[str, ...],
    config: Path | None,
    disk: bool,
    fix: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Look at kernel, ports, disk, memory, rules and addresses, with the settings of `sensor run`.

    Says of each what is wrong, why it matters, and the command that mends it. Exits with 1 where there is
    an error: nothing would be captured, or evidence be kept. It captures nothing, and needs no root, but
    sees less without.
    """
    from sensor.doctor.examination import examine, mend  # takes a while to import, and nothing else needs it

    settings = load_settings({**flags, "interface": interface or None}, config)
    logging.disable(logging.WARNING)  # of the rules: findings say it
    try:
        findings = list(examine(settings, disk=disk))
        ran = list(mend(findings)) if fix else []
        if ran:
            findings = list(examine(settings, disk=disk))
    finally:
        logging.disable(logging.NOTSET)
    if as_json:
        click.echo(json.dumps(_object(findings, ran)))
    else:
        _print(findings, ran, quiet=quiet)
    if any(finding.level == "error" for finding in findings):
        sys.exit(SensorError.exit_code)


def _object(findings: list[Finding], ran: list[Ran]) -> dict[str, Any]:
    return {
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "ran": [one._asdict() for one in ran],
    }


def _print(findings: list[Finding], ran: list[Ran], *, quiet: bool) -> None:
    """Print a line each, and what to do in a line of its own, from which a command can be copied."""
    for one in ran:
        click.echo(one)
    for finding in findings:
        if quiet and finding.level in ("ok", "note"):
            continue
        level = click.style(f"{finding.level:<8}", fg=_STYLES[finding.level])
        click.echo(f"{level} {finding.statement}")
        if finding.remedy:
            click.echo(f"{'':<8} {finding.remedy}")
