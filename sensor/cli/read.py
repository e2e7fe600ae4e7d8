"""``sensor read``: match capture files."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from sensor.cli.read_output import MatchText, json_text
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import is_discarded, print_escaped
from sensor.config.loading import load_settings
from sensor.evidence.block import EvidenceBlock
from sensor.read import Emit, read


@click.command("read")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@setting_options("read")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per match.")
def read_command(config: Path | None, as_json: bool, files: tuple[Path, ...], **flags: Any) -> None:
    """Match the packets of pcap and pcapng files.

    Files compressed with gzip or Zstandard are decompressed as they are read. FILE may be - for standard
    input.

    Prints each match. Keeps evidence only if --evidence or the evidence setting names a directory.
    """
    settings = load_settings(flags, config)
    evidence = settings.evidence if "evidence" in settings.model_fields_set else None
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("reading", total=sum(map(_size_of, files)))
        read(
            files,
            settings,
            evidence,
            _printer(as_json),
            lambda size: progress.update(task, advance=size, description="reading"),
            lambda rules: progress.update(task, description=rules.words),
        )


def _size_of(path: Path) -> int:
    """Return the size of a file; 0 for a pipe, and for what cannot be read."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _printer(as_json: bool) -> Emit:
    if is_discarded(sys.stdout):  # locating the matches costs more than finding them
        return lambda _block: None
    text_of = json_text if as_json else MatchText().of

    def emit(block: EvidenceBlock) -> None:
        if len(block):
            print_escaped(text_of(block))

    return emit
