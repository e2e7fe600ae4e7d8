"""``sensor selftest``: sends a marked packet, and says at which stage of the sensor it stops."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json, print_line
from sensor.config.loading import load_settings
from sensor.errors import SettingsError

if TYPE_CHECKING:
    from sensor.selftest.stage import StageResult

COMMAND = [sys.executable, "-m", "sensor"]
PATIENCE_S = 30.0
_STYLES = {"ok": "green", "failed": "red", "skipped": "cyan"}


@click.command("selftest")
@click.argument("interface", required=False)
@setting_options("selftest")
@click.option(
    "--from", "source", metavar="PORT", help="Send from this port, which is connected to INTERFACE."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with a token for the API, if it wants one.",
)
@click.option(
    "--timeout", default=PATIENCE_S, metavar="SECONDS", show_default=True, help="Time for each wait."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def selftest_command(
    interface: str | None,
    config: Path | None,
    source: str | None,
    token_file: Path | None,
    timeout: float,
    as_json: bool,
    **flags: Any,
) -> None:
    """Send a marked packet through the sensor, and say where it stops.

    With INTERFACE, test the running sensor that captures there: the packet is put into its program, or sent
    from a port that is connected to it (--from). It becomes evidence, from a documentation address and with
    `sensor-selftest` in its payload. Without INTERFACE, start a sensor in a private network, with temporary
    evidence, and test that. The exit code names the first stage that fails: capturing 11, seen 12, matched
    13, written 14, indexed 15, served 16.
    """
    from sensor.selftest.journey import Journey  # slow to load
    from sensor.selftest.private_sensor import follow_privately

    settings = load_settings(flags, config)
    if source and not interface:
        raise SettingsError("--from needs the INTERFACE that it is connected to")
    token = _read(token_file) if token_file else None
    if interface:
        found = Journey(settings, interface, source, token, timeout).run()
    else:
        found = follow_privately(settings, COMMAND, timeout)
    if as_json:
        print_json({"stages": [_object(one) for one in found]})
    else:
        for one in found:
            level = click.style(f"{one.outcome:<8}", fg=_STYLES[one.outcome])
            print_line(f"{one.stage.name.lower():<10} {one.detail}".rstrip(), beginning=level)
    failed = next((one.stage for one in found if one.outcome == "failed"), None)
    if failed:
        sys.exit(int(failed))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--token-file: {path}: cannot be read: {error}") from error


def _object(one: StageResult) -> dict[str, str]:
    return {"stage": one.stage.name.lower(), "outcome": one.outcome, "detail": one.detail}
