"""``sensor rules stats``: what rules cost to compile and to match."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from sensor.bench.sample_payloads import captured, generated
from sensor.cli.rules_stats_output import Costs, costs_object, rows, summary_lines
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json, print_lines, print_table
from sensor.config.loading import load_settings
from sensor.rules.cost import measure, measure_each
from sensor.rules.engine.profile import PROFILES
from sensor.rules.ready import load_and_log


@click.command("stats")
@click.option(
    "--payloads",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measure with the payloads of this capture file.  [default: a generated mix]",
)
@setting_options("rules stats")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats_command(payloads: Path | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Measure what the rules cost, to compile and per payload.

    Costs are CPU times, the slowest rule first. Each rule is measured alone; all rules together cost less
    than the sum.
    """
    settings = load_settings(flags, config)
    start_s = time.perf_counter()
    rules = load_and_log(settings.rules, lenient=settings.lenient)
    read_ms = (time.perf_counter() - start_s) * 1e3
    subjects = captured(payloads) if payloads else generated()
    http = PROFILES[settings.profile].http
    terminal = Console(stderr=True)
    each = track(
        measure_each(rules, subjects, http),
        "measuring",
        len(rules),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    )
    slowest_first = sorted(each, key=lambda measured: -measured[1].payload_ns)
    costs = Costs(read_ms, subjects, measure(rules, subjects, http), slowest_first)
    if as_json:
        print_json(costs_object(costs))
    else:
        print_lines(summary_lines(costs))
        print_table(rows(costs))
