"""``sensor doctor``: checks whether this host is ready to capture, and says what to do."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.selftest import COMMAND, PATIENCE_S
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json, print_line
from sensor.config.loading import load_settings
from sensor.errors import SensorError

if TYPE_CHECKING:
    from sensor.doctor.examination import AppliedFix
    from sensor.finding import Finding

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}


@click.command("doctor")
@click.argument("interface", nargs=-1, metavar="[INTERFACE]...")
@setting_options("doctor")
@click.option("--disk", is_flag=True, help="Test the evidence disk: write 64 MiB, and delete them again.")
@click.option(
    "--selftest",
    is_flag=True,
    help="Send a packet through a sensor of its own in a private network, which takes seconds; needs root.",
)
@click.option("--fix", is_flag=True, help="Apply the safe fixes, then check again.")
@click.option("--quiet", is_flag=True, help="Print only warnings and errors.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor_command(
    interface: tuple[str, ...],
    config: Path | None,
    disk: bool,
    selftest: bool,
    fix: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Check whether this host is ready for `sensor run`.

    Uses the same settings. Checks kernel, interfaces, disk, memory, rules and addresses. For each problem it
    prints what is wrong, why it matters, and the command that fixes it. Exits with 1 if there is an error,
    that is, if nothing could be captured or kept. It captures nothing, and works without root, but then it
    sees less.
    """
    from sensor.doctor.examination import apply_safe_fixes, examine  # slow to load
    from sensor.selftest.finding_of_run import selftest_finding

    settings = load_settings({**flags, "interface": interface or None}, config)
    logging.disable(logging.WARNING)  # findings repeat what loading the rules logs
    try:
        findings = list(examine(settings, disk=disk))
        applied = list(apply_safe_fixes(findings)) if fix else []
        if applied:
            findings = list(examine(settings, disk=disk))
        if selftest:
            findings.append(selftest_finding(settings, COMMAND, PATIENCE_S, findings))
    finally:
        logging.disable(logging.NOTSET)
    if as_json:
        print_json(_object(findings, applied))
    else:
        _print(findings, applied, quiet=quiet)
    if any(finding.level == "error" for finding in findings):
        sys.exit(SensorError.exit_code)


def _object(findings: list[Finding], applied: list[AppliedFix]) -> dict[str, Any]:
    return {
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "ran": [one._asdict() for one in applied],
    }


def _print(findings: list[Finding], applied: list[AppliedFix], *, quiet: bool) -> None:
    """Print a line per finding, and the remedy on a line of its own, so that commands can be copied."""
    for one in applied:
        print_line(one)
    for finding in findings:
        if quiet and finding.level in ("ok", "note"):
            continue
        level = click.style(f"{finding.level:<8}", fg=_STYLES[finding.level])
        print_line(finding.statement, beginning=f"{level} ")
        if finding.remedy:
            print_line(f"{'':<8} {finding.remedy}")
