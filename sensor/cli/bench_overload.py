"""``sensor bench overload``: what is found of an office's attacks beside a flood."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sensor.cli.bench_overload_output import overload_lines
from sensor.cli.bench_replay import interrupt_on_signals
from sensor.cli.terminal import print_json, print_line, print_lines

ORIGINS = ("one", "networks", "many", "forged")
QUICK_ORIGINS = ("one",)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("overload")
@click.option(
    "--origin",
    "origins",
    multiple=True,
    type=click.Choice(ORIGINS),
    help="Where floods come from. Repeat the flag for more.  [default: all; with --quick: one]",
)
@click.option("--seed", type=int, default=1, show_default=True, metavar="NUMBER", help="Seed of the traffic.")
@click.option(
    "--directory",
    type=_DIRECTORY,
    metavar="DIRECTORY",
    help="Directory for temporary evidence.  [default: /tmp]",
)
@click.option("--quick", is_flag=True, help="Measure roughly, 20 s per origin and flood.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def overload_command(
    origins: tuple[str, ...], seed: int, directory: Path | None, quick: bool, as_json: bool
) -> None:
    """Count the attacks found beside a flood.

    An office's traffic with attacks in it is sent alone, and beside floods of packets that are costly to
    match. Uses your rules and settings, in a private network namespace.
    """
    from sensor.bench.effort import OVERLOAD_FULL, OVERLOAD_QUICK
    from sensor.bench.overload import measure

    def step(description: str) -> None:
        if sys.stderr.isatty():
            print_line(f"{description} ...", err=True)

    interrupt_on_signals()
    effort = OVERLOAD_QUICK if quick else OVERLOAD_FULL
    found = measure(
        origins or (QUICK_ORIGINS if quick else ORIGINS), effort, step, seed=seed, directory=directory
    )
    if as_json:
        print_json(found, indent=2)
    else:
        print_lines(overload_lines(found))
