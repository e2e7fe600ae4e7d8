"""``sensor rules``: check, list, try and explain rules."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from sensor.bench.payloads import captured, generated
from sensor.cli.payload_argument import payload
from sensor.cli.rules_explain_output import (
    Totals,
    explanation_object,
    outcome_objects,
    packet_lines,
    rule_lines,
)
from sensor.cli.rules_plan_output import passing_object, plan_lines
from sensor.cli.rules_stats_output import Costs, costs_object, rows, summary_lines
from sensor.config.settings import Settings, load_settings
from sensor.errors import RulesError
from sensor.explain import explain
from sensor.model import RULE_CLASSES, Rule
from sensor.protocols import ICMP, RULE_PROTOCOLS
from sensor.rules.cost import measure, measure_each
from sensor.rules.engine.profile import PROFILES
from sensor.rules.files.describe import conditions, fault_object, hit_object, hit_words, rule_object
from sensor.rules.files.json_schema import rule_file_schema
from sensor.rules.files.load import FaultyRulesError, RuleSet, load_and_log, load_rules
from sensor.rules.obstacles import Specimen, match, reasons
from sensor.rules.prefilter.plan import Plan, demands

_PROTOCOLS = {**RULE_PROTOCOLS, "icmp": ICMP}
_PATH = click.Path(path_type=Path)

_config = click.option("--config", type=_PATH, help="Settings file (TOML).")
_rules = click.option("--rules", "directory", type=_PATH, help="Directory of the rule files.  [our own]")
_profile = click.option("--profile", type=click.Choice(list(PROFILES)), help="As for read.  [default]")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("rules")
def rules_group() -> None:
    """Check, list, try and explain rules."""


@rules_group.command("check")
@click.argument("directory", required=False, type=_PATH, metavar="[DIR]")
@click.option("--lenient", is_flag=True, default=None, help="Exit 0 as long as a file is left.")
@_config
@_json
def check_command(directory: Path | None, lenient: bool | None, config: Path | None, as_json: bool) -> None:
    """Print every fault of the rule files in DIR; exit 2 where there is one that would not be skipped."""
    settings = load_settings({"rules": directory, "lenient": lenient}, config)
    lenient = settings.lenient
    try:
        rules = load_rules(settings.rules, lenient=True)
    except FaultyRulesError as error:
        rules, lenient = RuleSet((), "", error.faults), False
    if as_json:
        click.echo(
            json.dumps({"rules": len(rules), "faults": [fault_object(fault) for fault in rules.faults]})
        )
    else:
        for fault in rules.faults:
            click.echo(fault)
        faults = (
            f"{_count(len(rules.faults), 'fault')}{', skipped' if lenient else ''}; " if rules.faults else ""
        )
        click.echo(f"{faults}{_count(len(rules), 'rule')} {'is' if len(rules) == 1 else 'are'} fine")
    if rules.faults and not lenient:
        sys.exit(RulesError.exit_code)


@rules_group.command("list")
@click.option("--class", "rule_class", type=click.Choice(RULE_CLASSES), help="Only this class.")
@_rules
@_config
@_json
def list_command(rule_class: str | None, directory: Path | None, config: Path | None, as_json: bool) -> None:
    """List the rules in class and file order: id, class, type, name, and to what they apply."""
    settings = load_settings({"rules": directory}, config)
    rules = [rule for rule in _load(settings) if rule_class in (None, rule.rule_class)]
    if as_json:
        for rule in rules:
            click.echo(json.dumps(rule_object(rule)))
    else:
        _print_table((str(r.rule_id), r.rule_class, r.type, r.name, conditions(r)) for r in rules)


@rules_group.command("show")
@click.argument("rule_id", type=int, metavar="ID")
@_rules
@_config
@_json
def show_command(rule_id: int, directory: Path | None, config: Path | None, as_json: bool) -> None:
    """Show all that a rule says."""
    settings = load_settings({"rules": directory}, config)
    fields = rule_object(_find(_load(settings), rule_id))
    if as_json:
        click.echo(json.dumps(fields))
    else:
        _print_table((name, str(value)) for name, value in fields.items() if value is not None)


@rules_group.command("test")
@click.argument("rule_id", type=int, metavar="ID")
@click.argument("text", type=payload, metavar="PAYLOAD|@FILE")
@click.option("--protocol", type=click.Choice(list(_PROTOCOLS)), help="The packet's.  [the rule's, or tcp]")
@click.option("--sport", type=click.IntRange(0, 65535), default=50000, help="Source port.  [50000]")
@click.option("--dport", type=click.IntRange(0, 65535), help="Destination port.  [the rule's, or 80]")
@_profile
@_rules
@_config
@_json
def test_command(
    rule_id: int,
    text: bytes,
    protocol: str | None,
    sport: int,
    dport: int | None,
    directory: Path | None,
    config: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    r"""Say whether a rule hits a payload, where, and which version it names; if not, why not.

    PAYLOAD is text with the escapes \r \n \t \0 \\ \xNN; @FILE takes the bytes of a file as they
    are. Exits with 0 where the rule hits, with 1 where it does not.
    """
    settings = load_settings({"rules": directory, **flags}, config)
    profile = PROFILES[settings.profile]
    rule = _find(_load(settings), rule_id)
    number = _PROTOCOLS[protocol] if protocol else rule.protocol or _PROTOCOLS["tcp"]
    subject = Specimen(text, number, sport, (rule.port or 80) if dport is None else dport)
    found = match(rule, subject, profile)
    why = [] if found else list(reasons(rule, subject, profile))
    if as_json:
        click.echo(json.dumps({"hit": hit_object(found, text) if found else None, "why": why}))
    else:
        click.echo(f"hit: {hit_words(found, text)}" if found else f"no hit: {'; '.join(why)}")
    if not found:
        sys.exit(1)


@rules_group.command("explain")
@click.argument("file", type=_PATH, metavar="FILE.pcap")
@click.option("--packet", type=click.IntRange(1), help="Only this packet, rule by rule.")
@_profile
@_rules
@_config
@_json
def explain_command(
    file: Path, packet: int | None, directory: Path | None, config: Path | None, as_json: bool, **flags: Any
) -> None:
    """Say for each packet which rules were tried, which hit where, and why the others did not apply."""
    settings = load_settings({"rules": directory, **flags}, config)
    explanations = explain(file, _load(settings), settings.profile)
    if packet is not None:
        chosen = next(islice(explanations, packet - 1, None), None)
        if chosen is None:
            raise click.BadParameter(f"{file} has no packet {packet}", param_hint="--packet")
        found = {**explanation_object(chosen), "rules": outcome_objects(chosen)}
        click.echo(json.dumps(found) if as_json else "\n".join(rule_lines(chosen)))
        return
    totals = Totals()
    for explanation in explanations:
        totals.add(explanation)
        if as_json:
            click.echo(json.dumps(explanation_object(explanation)))
        else:
            click.echo("\n".join(packet_lines(explanation)))
    if not as_json:
        click.echo(totals)


@rules_group.command("stats")
@click.option("--payloads", type=_PATH, metavar="FILE.pcap", help="Measure with these.  [a generated mix]")
@_profile
@_rules
@_config
@_json
def stats_command(
    payloads: Path | None, directory: Path | None, config: Path | None, as_json: bool, **flags: Any
) -> None:
    """Measure what compiling the rules takes, and what each costs a payload, the slowest first.

    Costs are CPU times. Each rule is measured alone; together they cost less than their sum.
    """
    settings = load_settings({"rules": directory, **flags}, config)
    start_s = time.perf_counter()
    rules = _load(settings)
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
        click.echo(json.dumps(costs_object(costs)))
    else:
        click.echo("\n".join(summary_lines(costs)))
        _print_table(rows(costs))


@rules_group.command("plan")
@_profile
@_rules
@_config
@_json
def plan_command(directory: Path | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Say which payloads the kernel lets through, by what they begin with, and for which rules.

    First come the rules for which everything passes: they cost the most.
    """
    settings = load_settings({"rules": directory, **flags}, config)
    every = list(Plan.of(demands(_load(settings), PROFILES[settings.profile].http)).passing())
    if as_json:
        for one in every:
            click.echo(json.dumps(passing_object(one)))
    else:
        click.echo("\n".join(plan_lines(every)))


@rules_group.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of a rule file, for editors."""
    click.echo(json.dumps(rule_file_schema(), indent=2))


def _load(settings: Settings) -> RuleSet:
    return load_and_log(settings.rules, lenient=settings.lenient)


def _find(rules: RuleSet, rule_id: int) -> Rule:
    for rule in rules:
        if rule.rule_id == rule_id:
            return rule
    raise RulesError(f"there is no rule {rule_id}; sensor rules list shows which there are")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_table(rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns, each as wide as its longest text."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
