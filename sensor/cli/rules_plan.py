"""``sensor rules plan``: what the prefilter in the kernel passes on to the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sensor.cli.rules_plan_output import passing_object, plan_lines, table_lines
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json, print_lines
from sensor.config.loading import load_settings
from sensor.rules.engine.profile import PROFILES
from sensor.rules.prefilter.plan import Plan, demands
from sensor.rules.prefilter.tables import kernel_plan
from sensor.rules.ready import load_and_log


@click.command("plan")
@setting_options("rules plan")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan_command(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Show which payloads the kernel passes on, and for which rules.

    Payloads are distinguished by protocol, port, length and first bytes. Rules for which every payload passes
    come first: they cost the most.
    """
    settings = load_settings(flags, config)
    http = PROFILES[settings.profile].http
    plan = Plan.of(demands(load_and_log(settings.rules, lenient=settings.lenient), http))
    every = list(plan.passing())
    if as_json:
        for one in every:
            print_json(passing_object(one))
    else:
        print_lines([*plan_lines(every), *table_lines(len(every), kernel_plan(plan, http))])
