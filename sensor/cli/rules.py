"""``sensor rules``: check, list and test rules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from sensor.cli.payload_argument import payload
from sensor.cli.redraw import drawn_progress
from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json, print_line, print_table
from sensor.config.loading import load_settings
from sensor.config.settings import Settings
from sensor.errors import RulesError
from sensor.model import RULE_CLASSES, Rule
from sensor.protocols import ICMP, RULE_PROTOCOLS
from sensor.rules.engine.profile import PROFILES
from sensor.rules.files.describe import conditions, fault_object, match_object, match_words, rule_object
from sensor.rules.files.json_schema import rule_file_schema
from sensor.rules.files.rule_fault import FaultyRulesError
from sensor.rules.files.rule_set import RuleSet
from sensor.rules.obstacles import Specimen, match, reasons
from sensor.rules.ready import find_ready, load_and_log
from sensor.text import count_of

_PROTOCOLS = {**RULE_PROTOCOLS, "icmp": ICMP}
_PATH = click.Path(path_type=Path)

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("rules")
def rules_group() -> None:
    """Check, list, test and measure rules."""


@rules_group.command("check")
@click.argument("directory", required=False, type=_PATH, metavar="[DIRECTORY]")
@setting_options("rules check")
@_json
def check_command(directory: Path | None, lenient: bool | None, config: Path | None, as_json: bool) -> None:
    """Check the rule files, and print every fault.

    Without DIRECTORY, check the files that the rules setting names. Exits with 2 if there is a fault.
    """
    settings = load_settings({"rules": directory, "lenient": lenient}, config)
    lenient, http = settings.lenient, PROFILES[settings.profile].http
    try:
        with drawn_progress() as watch:
            ready = find_ready(  # faults have the paths as they were given
                directory or settings.rules, http, lenient=lenient, find_all=True, watch=watch
            )
        faults, fine = ready.rules.faults, len(ready.rules)
    except FaultyRulesError as error:
        faults, fine, lenient = error.faults, error.fine, False
    if as_json:
        print_json({"rules": fine, "faults": list(map(fault_object, faults))})
    else:
        for fault in faults:
            print_line(fault)
        found = f"{count_of(len(faults), 'fault')}{', skipped' if lenient else ''}; " if faults else ""
        print_line(f"{found}{count_of(fine, 'rule')} {'is' if fine == 1 else 'are'} fine")
    if faults and not lenient:
        sys.exit(RulesError.exit_code)


@rules_group.command("list")
@click.option("--class", "rule_class", type=click.Choice(RULE_CLASSES), help="List only rules of this class.")
@setting_options("rules list")
@_json
def list_command(rule_class: str | None, rules: Path | None, config: Path | None, as_json: bool) -> None:
    """List the rules: id, class, type, name and conditions."""
    settings = load_settings({"rules": rules}, config)
    chosen = [rule for rule in _load(settings) if rule_class in (None, rule.rule_class)]
    if as_json:
        for rule in chosen:
            print_json(rule_object(rule))
    else:
        print_table((str(r.rule_id), r.rule_class, r.type, r.name, conditions(r)) for r in chosen)


@rules_group.command("show")
@click.argument("rule_id", type=int, metavar="ID")
@setting_options("rules show")
@_json
def show_command(rule_id: int, rules: Path | None, config: Path | None, as_json: bool) -> None:
    """Show all fields of a rule."""
    settings = load_settings({"rules": rules}, config)
    fields = rule_object(_find(_load(settings), rule_id))
    if as_json:
        print_json(fields)
    else:
        print_table((name, _value_text(value)) for name, value in fields.items() if value is not None)


def _value_text(value: object) -> str:
    """Return a value as a rule file spells it, but text without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@rules_group.command("test")
@click.argument("rule_id", type=int, metavar="ID")
@click.argument("text", type=payload, metavar="PAYLOAD|@FILE")
@click.option(
    "--protocol",
    type=click.Choice(list(_PROTOCOLS)),
    help="Protocol of the packet.  [default: that of the rule, or tcp]",
)
@click.option(
    "--sport",
    type=click.IntRange(0, 65535),
    default=50000,
    show_default=True,
    metavar="PORT",
    help="Source port of the packet.",
)
@click.option(
    "--dport",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Destination port of the packet.  [default: that of the rule, or 80]",
)
@setting_options("rules test")
@_json
def test_command(
    rule_id: int,
    text: bytes,
    protocol: str | None,
    sport: int,
    dport: int | None,
    config: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    r"""Test a rule on a payload: show the match, or why there is none.

    PAYLOAD is text with the escapes \r \n \t \0 \\ \xNN; @FILE is the bytes of a file. Exits with 0 if
    the rule matches, with 1 if it does not.
    """
    settings = load_settings(flags, config)
    profile = PROFILES[settings.profile]
    rule = _find(_load(settings), rule_id)
    number = _PROTOCOLS[protocol] if protocol else rule.protocol or _PROTOCOLS["tcp"]
    subject = Specimen(text, number, sport, (rule.port or 80) if dport is None else dport)
    found = match(rule, subject, profile)
    why = [] if found else list(reasons(rule, subject, profile))
    if as_json:
        print_json({"hit": match_object(found, text) if found else None, "why": why})
    else:
        print_line(f"match: {match_words(found, text)}" if found else f"no match: {'; '.join(why)}")
    if not found:
        sys.exit(1)


@rules_group.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of a rule file, for editors."""
    print_json(rule_file_schema(), indent=2)


def _load(settings: Settings) -> RuleSet:
    return load_and_log(settings.rules, lenient=settings.lenient)


def _find(rules: RuleSet, rule_id: int) -> Rule:
    for rule in rules:
        if rule.rule_id == rule_id:
            return rule
    raise RulesError(f"there is no rule {rule_id}; sensor rules list shows all rules")
