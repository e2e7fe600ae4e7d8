"""``sensor bench``: measurements that users can repeat on their own machines."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from sensor.cli.bench_output import judged_lines, kernel_lines, match_lines, ring_lines, store_lines
from sensor.config.settings import load_settings

QUICK_PIECES = 100_000
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_PATH = click.Path(path_type=Path)

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_QUICK = click.option("--quick", is_flag=True, help="A rough answer within a minute.")
_RULES = click.option("--rules", type=_PATH, help="Directory of the rule files.  [our own]")


@click.group("bench")
def bench_group() -> None:
    """Measure on this machine."""


@bench_group.command("kernel")
@_RULES
@click.option("--capture", type=_PATH, help="Instead: which of this file's frames reach Python.")
@_QUICK
@_AS_JSON
def kernel_command(rules: Path | None, capture: Path | None, quick: bool, as_json: bool) -> None:
    """What the kernel spends on a frame that it ignores, beside xdp-filter on the same frame."""
    from sensor.bench.kernel import judge, measure

    directory = _rules_directory(rules)
    if capture:
        _show(judge(directory, capture), as_json, judged_lines)
    else:
        _show(measure(directory, quick=quick, step=_tell), as_json, kernel_lines)


@bench_group.command("ring")
@_RULES
@_QUICK
@_AS_JSON
def ring_command(rules: Path | None, quick: bool, as_json: bool) -> None:
    """How fast candidates come through the rings, beside BCC's reader, and on through the matcher.

    Sends frames inside the kernel, in a network namespace of its own.
    """
    from sensor.bench.ring import measure

    _show(measure(_rules_directory(rules), quick=quick, step=_tell), as_json, ring_lines)


@bench_group.command("match")
@_RULES
@_QUICK
@_AS_JSON
def match_command(rules: Path | None, quick: bool, as_json: bool) -> None:
    """What matching costs a candidate, with the rules and unless quick with ten times as many."""
    from sensor.bench.match import measure

    _show(measure(_rules_directory(rules), quick=quick, step=_tell), as_json, match_lines)


@bench_group.command("store")
@click.option(
    "--pieces", type=click.IntRange(1000), default=10_000_000, help="Evidence to write.  [10 million]"
)
@click.option("--quick", is_flag=True, help=f"Only {QUICK_PIECES:,} pieces: a rough answer within a minute.")
@click.option("--directory", type=_DIRECTORY, help="Where to write; 0.7 KB a piece.  [/tmp]")
@_AS_JSON
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
    _show(found, as_json, store_lines)


def _rules_directory(rules: Path | None) -> Path:
    return load_settings({"rules": rules}).rules


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{what} ...", err=True)


def _show(found: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], Iterator[str]]) -> None:
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))
