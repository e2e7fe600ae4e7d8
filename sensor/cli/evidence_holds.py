"""``sensor evidence hold``, ``release`` and ``holds``: keep evidence from every limit."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

import click

from sensor.cli.evidence_filters import filters
from sensor.cli.evidence_index import evidence_index
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json, print_line
from sensor.errors import EvidenceError
from sensor.evidence.evidence_file import is_gone
from sensor.evidence.holding import entry_now, files_with, holds_in_force, in_words, new_name
from sensor.evidence.holds import HoldEntry, append_entry
from sensor.evidence.search import Query
from sensor.text import count_of

_reason = click.option("--reason", required=True, metavar="TEXT", help="Why; it is kept with the hold.")


@click.command("hold")
@filters
@_reason
@setting_options("evidence hold")
def hold_command(query: Query, reason: str, evidence: Path | None, config: Path | None) -> None:
    """Keep evidence from every limit until released.

    The files that have the evidence now are kept whole, with what else is in them.
    """
    index = evidence_index(evidence, config)
    files = files_with(index, query)
    if not files:
        raise EvidenceError("there is no such evidence, so nothing is held; see sensor evidence list")
    name = new_name()
    for devid, names in files.items():
        directory = index.directory / str(devid)
        _append(directory, entry_now("hold", name, _user(), reason, in_words(query), names))
        gone = [one for one in names if is_gone(directory / one)]
        if gone:
            print_line(f"deleted before it was held: {', '.join(gone)}", err=True)
    print_line(f"{name}: {count_of(sum(map(len, files.values())), 'file')} held")


@click.command("release")
@click.argument("name", metavar="HOLD")
@_reason
@setting_options("evidence release")
def release_command(name: str, reason: str, evidence: Path | None, config: Path | None) -> None:
    """Release a hold: limits delete its evidence again."""
    index = evidence_index(evidence, config)
    held = [devid for devid, hold in holds_in_force(index) if hold.hold == name]
    if not held:
        raise EvidenceError(f"there is no hold {name}; see sensor evidence holds")
    for devid in held:
        _append(index.directory / str(devid), entry_now("release", name, _user(), reason))
    print_line(f"{name} released")


@click.command("holds")
@setting_options("evidence holds")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def holds_command(evidence: Path | None, config: Path | None, as_json: bool) -> None:
    """List the holds in force."""
    for devid, hold in holds_in_force(evidence_index(evidence, config)):
        if as_json:
            print_json({"devid": devid, **hold._asdict()})
        else:
            files = count_of(len(hold.files), "file")
            print_line(f"{hold.hold} {hold.time} devid {devid}, {files}, by {hold.by}: {hold.reason}")


@click.command("keep-holds", hidden=True)
@setting_options("evidence keep-holds")
def keep_holds_command(evidence: Path | None, config: Path | None) -> None:
    """Write the holds that an API asks for on standard input, a socket; run by systemd."""
    from sensor.api.hold_keeper import keep_holds

    index = evidence_index(evidence, config)
    keep_holds(socket.socket(fileno=os.dup(0)), index.directory)


def _append(directory: Path, entry: HoldEntry) -> None:
    try:
        append_entry(directory, entry)
    except OSError as error:
        raise EvidenceError(
            f"{directory} cannot be written: {error.strerror}; run this as the user of the sensor, or as root"
        ) from error


def _user() -> str:
    """Return the name of the user, and of the one before sudo."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    before = os.environ.get("SUDO_USER")
    return f"{before} as {name}" if before else name
