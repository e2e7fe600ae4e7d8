"""``sensor rules explain``: what became of each rule for each packet of a capture file."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import click

from sensor.cli.rules_explain_output import (
    Totals,
    explanation_object,
    outcome_objects,
    packet_lines,
    rule_lines,
)
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json, print_line, print_lines
from sensor.config.loading import load_settings
from sensor.explain import explain
from sensor.rules.ready import load_and_log


@click.command("explain")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--packet", type=click.IntRange(1), metavar="NUMBER", help="Explain only this packet, rule by rule."
)
@setting_options("rules explain")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_command(file: Path, packet: int | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Show for each packet which rules match, and why others do not.

    FILE is a pcap or pcapng file.
    """
    settings = load_settings(flags, config)
    explanations = explain(file, load_and_log(settings.rules, lenient=settings.lenient), settings.profile)
    if packet is not None:
        chosen = next(islice(explanations, packet - 1, None), None)
        if chosen is None:
            raise click.BadParameter(f"{file} has no packet {packet}", param_hint="--packet")
        found = {**explanation_object(chosen), "rules": outcome_objects(chosen)}
        if as_json:
            print_json(found)
        else:
            print_lines(rule_lines(chosen))
        return
    totals = Totals()
    for explanation in explanations:
        totals.add(explanation)
        if as_json:
            print_json(explanation_object(explanation))
        else:
            print_lines(packet_lines(explanation))
    if not as_json:
        print_line(totals)
