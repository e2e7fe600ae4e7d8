"""``sensor rules reload``: makes the running sensor reload its rules, and waits for the outcome."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from sensor.cli.redraw import redraw
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_line
from sensor.config.loading import load_settings
from sensor.config.settings import Settings
from sensor.errors import EvidenceError, PrivilegeError, SensorError
from sensor.evidence.directory_lock import writing_process
from sensor.live.reload_board import ReloadState, read_reload_state
from sensor.log import print_error

PATIENCE_S = 30.0
"""How long a sensor may show no sign of life; it shows five per second."""
_LOOK_S = 0.1


@click.command("reload")
@setting_options("rules reload")
def reload_command(config: Path | None, evidence: Path | None, devid: int | None) -> None:
    """Make the running sensor reload its rules, and wait for the outcome.

    Sends SIGHUP. Exits with 0 when new rules are in force, and with 2 if they are refused; then the old
    ones stay in force.
    """
    settings = load_settings({"evidence": evidence, "devid": devid}, config)
    directory = settings.evidence / str(settings.devid)
    process = _process(settings)
    if process is None:
        raise EvidenceError(
            f"no sensor writes to {directory}; name the running sensor's --evidence and --devid"
        )
    before = _state(directory, process)
    try:
        os.kill(process, signal.SIGHUP)
    except PermissionError as error:
        raise PrivilegeError(f"process {process} belongs to another user: run this with sudo") from error
    except ProcessLookupError as error:
        raise SensorError(f"the sensor (process {process}) has just ended") from error
    first = (before.begun if before else 0) + 1
    state = _outcome(
        lambda: _state(directory, process), lambda: _process(settings) == process, first, process
    )
    if state.exit_code:
        print_error(state.text)
        sys.exit(state.exit_code)
    print_line(state.text)


def _outcome(
    look: Callable[[], ReloadState | None], is_alive: Callable[[], bool], first: int, process: int
) -> ReloadState:
    """Wait until the load with the number ``first``, or a later one, has ended; return the state then.

    Raises:
        SensorError: The sensor ends, or shows no sign of life.
    """
    seen: ReloadState | None = None
    seen_s = time.monotonic()
    try:
        while True:
            ends = not is_alive()
            state = look()
            if state and state.ended >= first:
                return state
            if ends:
                raise SensorError(f"the sensor (process {process}) ended before the reload did; see its log")
            if state and state != seen:
                seen, seen_s = state, time.monotonic()
                if sys.stderr.isatty():
                    redraw(state.progress)
            if time.monotonic() - seen_s > PATIENCE_S:
                raise SensorError(
                    f"the sensor (process {process}) does not answer; its log may say why. "
                    "It has the request, and its rules are the old ones until the log says otherwise"
                )
            time.sleep(_LOOK_S)
    finally:
        if sys.stderr.isatty():
            redraw("")


def _process(settings: Settings) -> int | None:
    """Return the id of the running sensor's process; None if there is none."""
    try:
        return writing_process(settings.evidence, settings.devid)
    except OSError as error:
        directory = settings.evidence / str(settings.devid)
        raise EvidenceError(f"{directory}: the process that writes there is not known: {error}") from error


def _state(directory: Path, process: int) -> ReloadState | None:
    try:
        return read_reload_state(directory, process)
    except OSError as error:
        raise EvidenceError(
            f"{directory}: the outcome of reloads cannot be read: {error.strerror}; run this with sudo"
        ) from error
