"""``sensor evidence``: find, show, export, verify and index evidence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from sensor.cli.capture_output import container_of, write_capture
from sensor.cli.evidence_conversation import conversation_command, conversations_command
from sensor.cli.evidence_filters import filters, limit_option, time_us
from sensor.cli.evidence_holds import hold_command, holds_command, keep_holds_command, release_command
from sensor.cli.evidence_index import evidence_index, warn_of_gaps
from sensor.cli.evidence_origins import OriginFinder
from sensor.cli.evidence_output import layer_objects, origin_object, stored_line, stored_lines
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json, print_line, print_lines
from sensor.config.loading import load_settings
from sensor.errors import EvidenceError
from sensor.evidence.export import Container, encoded
from sensor.evidence.json_object import stored_object
from sensor.evidence.search import Query
from sensor.evidence.verify import verify
from sensor.reindex import reindex
from sensor.text import count_of, utc_text

_PATH = click.Path(path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
_devid = click.option(
    "--devid", type=click.IntRange(0), metavar="NUMBER", help="Only this device.  [default: all devices]"
)
_PAGE = 500


@click.group("evidence")
def evidence_group() -> None:
    """Find, show, export and verify evidence."""


@evidence_group.command("list")
@filters
@limit_option("items")
@setting_options("evidence list")
@_json
def list_command(query: Query, limit: int, evidence: Path | None, config: Path | None, as_json: bool) -> None:
    """List evidence, newest first."""
    index = evidence_index(evidence, config)
    cursor = None
    while limit:
        page = index.search(query, min(limit, _PAGE), cursor)
        for stored, matches in zip(page.items, index.matches(page.items), strict=True):
            if as_json:
                print_json(stored_object(stored, matches))
            else:
                print_line(stored_line(stored, matches))
        limit -= len(page.items)
        cursor = page.cursor
        if cursor is None:
            break
    warn_of_gaps(index)


@evidence_group.command("show")
@click.argument("moment", type=time_us, metavar="TIME")
@_devid
@setting_options("evidence show")
@_json
def show_command(
    moment: int, devid: int | None, evidence: Path | None, config: Path | None, as_json: bool
) -> None:
    """Show the packets of one microsecond with their headers.

    Names the capture file that a packet was read from.

    TIME is a time such as 2023-06-18T07:47:23.000123 (UTC), or a number of microseconds since 1970.
    """
    index = evidence_index(evidence, config)
    found = index.lookup(moment, devid)
    if not found:
        raise EvidenceError(
            f"there is no evidence at {utc_text(moment)} UTC; sensor evidence list shows what there is"
        )
    origins = OriginFinder()
    for number, stored in enumerate(found):
        frame = index.record(stored).frame
        origin = origins.find(stored)
        if as_json:
            layers = layer_objects(stored, frame)
            shown = stored_object(stored, stored.matches(frame))
            capture = origin_object(origin) if origin else None
            print_json({**shown, "capture": capture, "layers": layers, "frame": frame.hex()})
        else:
            lines = stored_lines(stored, frame, origin)
            print_lines(["", *lines] if number else lines)


@evidence_group.command("export")
@click.argument("file", type=_PATH, metavar="FILE")
@filters
@click.option(
    "--format",
    "container",
    type=click.Choice(["pcap", "pcapng"]),
    help="Format of the file.  [default: from its name; pcap for -]",
)
@setting_options("evidence export")
def export_command(
    file: Path, query: Query, container: Container | None, evidence: Path | None, config: Path | None
) -> None:
    """Write evidence to a .pcap or .pcapng file, oldest first.

    In a pcapng file, each packet has its rules as a comment. An existing FILE is replaced only when the
    export is complete. FILE may be - for standard output.
    """
    container = container_of(file, container)
    index = evidence_index(evidence, config)
    write_capture(file, encoded(index.iterate(query), container))
    warn_of_gaps(index)


@evidence_group.command("verify")
@_devid
@setting_options("evidence verify")
@_json
def verify_command(devid: int | None, evidence: Path | None, config: Path | None, as_json: bool) -> None:
    """Verify that files and index can be read and agree.

    Prints each fault. Exits with 6 if there are any.
    """
    index = evidence_index(evidence, config)
    faults = packets = files = 0
    for device in index.devices() if devid is None else [devid]:
        for path, count, fault in verify(index.directory / str(device), device):
            files += path.suffix == ".pcap"
            packets += count
            faults += bool(fault)
            if as_json:
                print_json({"file": str(path), "packets": count, "fault": fault or None})
            elif fault:
                print_line(f"{path} {fault}")
    if not as_json:
        print_line(f"{count_of(files, 'file')}, {count_of(packets, 'packet')}, {count_of(faults, 'fault')}")
    if faults:
        sys.exit(EvidenceError.exit_code)


@evidence_group.command("reindex")
@setting_options("evidence reindex")
def reindex_command(config: Path | None, **flags: Any) -> None:
    """Rebuild the index from the files, with the current rules.

    The files do not hold everything, so this loses: interface names; matches of rules that have changed
    since; and which matches did not count because of earlier packets of the flow.
    """
    settings = load_settings(flags, config)
    columns = (TextColumn("indexing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("", total=None)
        packets = reindex(settings, lambda done, total: progress.update(task, completed=done, total=total))
    print_line(
        f"{count_of(packets, 'packet')} indexed; interface names are lost, because the files do not contain "
        "them",
        err=True,
    )


for command in (
    conversation_command,
    conversations_command,
    hold_command,
    holds_command,
    release_command,
    keep_holds_command,
):
    evidence_group.add_command(command)
