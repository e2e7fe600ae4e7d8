"""Output of ``sensor rules plan``: what the kernel passes on, and for which rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from sensor.capture.plan_maps import KernelPlan
from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.files.describe import prefix_words
from sensor.rules.prefilter.plan import OTHER, Passing
from sensor.rules.prefilter.prefix import WORD
from sensor.text import count_of

_NAMES = {TCP: "tcp", UDP: "udp", OTHER: "other protocols"}
_SHOWN = 4
"""Rules named on a line."""


def passing_object(one: Passing) -> dict[str, Any]:
    """Return what passes, ready for JSON; bytes are hexadecimal, in the order of the payload."""
    return {
        "protocol": _NAMES[one.protocol],
        "port": one.port or None,
        "anything": one.prefix.is_anything,
        "beginning": prefix_words(one.prefix),
        "value": one.prefix.value.to_bytes(WORD, "little").hex(),
        "mask": one.prefix.mask.to_bytes(WORD, "little").hex(),
        "length": one.prefix.length,
        "rules": [rule.rule_id for rule in one.rules],
    }


def plan_lines(every: Sequence[Passing]) -> Iterator[str]:
    """Yield the plan as lines, starting with the rules for which every payload passes."""
    anything = [one for one in every if one.prefix.is_anything]
    if anything:
        yield "These rules do not fix the first bytes of a payload; all payloads on their port pass:"
        for one in anything:
            yield from (f"    {_where(one)}: {_words(rule)}" for rule in one.rules)
    for protocol, name in _NAMES.items():
        passing = [one for one in every if one.protocol == protocol]
        if not passing:
            yield f"{name}: nothing passes"
        for port, group in groupby(passing, key=lambda one: one.port):
            yield f"{name}, port {port}:" if port else f"{name}, every port:"
            yield from (f"    {prefix_words(one.prefix)}    {_rule_list(one.rules)}" for one in group)


def table_lines(prefixes: int, tables: KernelPlan) -> Iterator[str]:
    """Yield what the plan takes in the kernel."""
    yield f"{count_of(prefixes, 'prefix')}, in tables of {tables.bytes / 2**20:.1f} MiB"
    if tables.merged:
        yield (
            f"{count_of(tables.merged, 'prefix')} too many for the tables: others are shorter instead, "
            "so more payloads pass than listed"
        )


def _where(one: Passing) -> str:
    return f"{_NAMES[one.protocol]}, port {one.port}" if one.port else _NAMES[one.protocol]


def _rule_list(rules: Sequence[Rule]) -> str:
    more = f" and {len(rules) - _SHOWN} more" if len(rules) > _SHOWN else ""
    return ", ".join(map(_words, rules[:_SHOWN])) + more


def _words(rule: Rule) -> str:
    return f"{rule.rule_class} {rule.rule_id} {rule.name}"
