"""``sensor bench``: measurements that users can repeat on their own machines."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

QUICK_PIECES = 200_000
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group("bench")
def bench_group() -> None:
    """Measure on this machine."""


@bench_group.command("store")
@click.option(
    "--pieces", type=click.IntRange(1000), default=10_000_000, help="Evidence to write.  [10 million]"
)
@click.option("--quick", is_flag=True, help=f"Only {QUICK_PIECES:,} pieces: a rough answer within a minute.")
@click.option("--directory", type=_DIRECTORY, help="Where to write; 0.7 KB a piece.  [/tmp]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def store_command(pieces: int, quick: bool, directory: Path | None, as_json: bool) -> None:
    """Write evidence with its index, find some of it again, and say how fast that was.

    What is written is deleted in the end.
    """
    from sensor.bench.store import measure

    count = QUICK_PIECES if quick else pieces
    terminal = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="sensor-bench-", dir=directory) as temporary,
        Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress,
    ):
        task = progress.add_task("writing", total=count)
        found = measure(Path(temporary), count, lambda more: progress.advance(task, more))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo("\n".join(_lines(found)))


def _lines(found: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in found.items():
        title = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            yield title
            yield from _lines(value, f"{indent}    ")
        else:
            yield f"{title:<48}{value:>12,}"
