"""The difference between two sets of rules, in words. Used in the supervisor when rules are reloaded."""

from __future__ import annotations

from collections.abc import Iterable

from sensor.model import Rule
from sensor.text import count_of

_NAMED = 5
"""Ids that are named; more are only counted."""


def rule_changes(before: Iterable[Rule], after: Iterable[Rule]) -> str:
    """Return what changed: ``added: 7; removed: 8, 9; 12 rules in force``."""
    old, new = ({rule.rule_id: rule for rule in rules} for rules in (before, after))
    changes = {
        "added": [number for number in new if number not in old],
        "removed": [number for number in old if number not in new],
        "changed": [number for number, rule in new.items() if number in old and old[number] != rule],
    }
    words = [f"{what}: {_named(found)}" for what, found in changes.items() if found]
    return f"{'; '.join(words) or 'nothing changed'}; {count_of(len(new), 'rule')} in force"


def _named(ids: list[int]) -> str:
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return ", ".join(map(str, ids[:_NAMED])) + more
