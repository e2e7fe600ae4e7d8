"""What ``sensor rules plan`` prints: what the kernel lets through, and for which rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.files.describe import prefix_words
from sensor.rules.prefilter.plan import OTHER, Passing
from sensor.rules.prefilter.prefix import WORD

_NAMES = {TCP: "tcp", UDP: "udp", OTHER: "other protocols"}
_SHOWN = 4
"""Rules that a line names."""


def passing_object(one: Passing) -> dict[str, Any]:
    """Return what passes, ready for JSON; bytes are hexadecimal, as they lie in the payload."""
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
    """Tell the plan in lines: first what passes whatever its bytes are, because of which rules."""
    anything = [one for one in every if one.prefix.is_anything]
    if anything:
        yield "These rules do not say how a payload begins; everything of their protocol and port passes:"
        for one in anything:
            yield from (f"    {_where(one)}: {_words(rule)}" for rule in one.rules)
    for protocol, name in _NAMES.items():
        passing = [one for one in every if one.protocol == protocol]
        if not passing:
            yield f"{name}: nothing passes"
        for port, group in groupby(passing, key=lambda one: one.port):
            yield f"{name}, port {port}:" if port else f"{name}, every port:"
            yield from (f"    {prefix_words(one.prefix)}    {_asking(one.rules)}" for one in group)


def _where(one: Passing) -> str:
    return f"{_NAMES[one.protocol]}, port {one.port}" if one.port else _NAMES[one.protocol]


def _asking(rules: Sequence[Rule]) -> str:
    more = f" and {len(rules) - _SHOWN} more" if len(rules) > _SHOWN else ""
    return ", ".join(map(_words, rules[:_SHOWN])) + more


def _words(rule: Rule) -> str:
    return f"{rule.rule_class} {rule.rule_id} {rule.name}"
