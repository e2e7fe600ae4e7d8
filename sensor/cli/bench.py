"""``sensor bench``: measurements that users can repeat on their own machines."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from sensor.cli.bench_output import decision_lines, kernel_lines, match_lines, ring_lines, store_lines
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json, print_line, print_lines
from sensor.config.loading import load_settings
from sensor.errors import SensorError

QUICK_ITEMS = 100_000
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_QUICK = click.option("--quick", is_flag=True, help="Measure roughly, within a minute.")


@click.group("bench")
def bench_group() -> None:
    """Measure the speed of sensor on this machine."""


@bench_group.command("kernel")
@setting_options("bench kernel", config=False)
@click.option(
    "--capture",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Instead of measuring, count the candidates among the frames of this capture file.",
)
@_QUICK
@_AS_JSON
def kernel_command(rules: Path | None, capture: Path | None, quick: bool, as_json: bool) -> None:
    """Measure the kernel's time per ignored frame.

    Measures xdp-filter on the same frame, too.
    """
    from sensor.bench.kernel import measure
    from sensor.bench.prefilter_decisions import count_decisions

    directory = _rules_directory(rules)
    if capture:
        _show(count_decisions(directory, capture), as_json, decision_lines)
    else:
        _show(measure(directory, quick=quick, step=_show_step), as_json, kernel_lines)


@bench_group.command("ring")
@setting_options("bench ring", config=False)
@_QUICK
@_AS_JSON
def ring_command(rules: Path | None, quick: bool, as_json: bool) -> None:
    """Measure how fast candidates are read from the rings and matched.

    Measures BCC's reader, too. Sends frames inside the kernel, in a private network namespace.
    """
    from sensor.bench.ring import measure

    _show(measure(_rules_directory(rules), quick=quick, step=_show_step), as_json, ring_lines)


@bench_group.command("match")
@setting_options("bench match", config=False)
@_QUICK
@click.option(
    "--trials",
    type=click.IntRange(10),
    metavar="NUMBER",
    help="Payloads to try per transport in the search for the worst.  [default: 4000; 500 with --quick]",
)
@click.option("--seed", type=int, default=1, show_default=True, metavar="NUMBER", help="Seed of that search.")
@click.option(
    "--capture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the worst packets to this capture file.",
)
@_AS_JSON
def match_command(
    rules: Path | None, quick: bool, trials: int | None, seed: int, capture: Path | None, as_json: bool
) -> None:
    """Measure the cost of matching a candidate, also of the worst.

    The worst is the most that a stranger's packet can cost with these rules. Without --quick, ordinary costs
    are also measured with ten times as many rules.
    """
    from sensor.bench.match import measure

    try:
        found = measure(
            _rules_directory(rules), quick=quick, step=_show_step, trials=trials, seed=seed, capture=capture
        )
    except OSError as error:
        raise SensorError(f"{capture} cannot be written: {error.strerror}") from error
    _show(found, as_json, match_lines)


@bench_group.command("store")
@click.option(
    "--pieces",
    type=click.IntRange(1000),
    default=10_000_000,
    metavar="NUMBER",
    help="Number of evidence items to write.  [default: 10 million]",
)
@click.option(
    "--quick", is_flag=True, help=f"Write only {QUICK_ITEMS:,} items: measure roughly, within a minute."
)
@click.option(
    "--directory",
    type=_DIRECTORY,
    metavar="DIRECTORY",
    help="Directory to write to, 0.7 KB per item.  [default: /tmp]",
)
@_AS_JSON
def store_command(pieces: int, quick: bool, directory: Path | None, as_json: bool) -> None:
    """Measure how fast evidence is written, indexed and found again.

    The evidence is deleted at the end.
    """
    from sensor.bench.store import measure

    count = QUICK_ITEMS if quick else pieces
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


def _show_step(description: str) -> None:
    if sys.stderr.isatty():
        print_line(f"{description} ...", err=True)


def _show(found: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], Iterator[str]]) -> None:
    if as_json:
        print_json(found, indent=2)
    else:
        print_lines(lines(found))
