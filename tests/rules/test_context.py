"""Tests for `sensor.rules.context`."""

from __future__ import annotations

import pytest

from sensor.config.settings import Context
from sensor.model import Rule
from sensor.rules.context import wants_context

RULES = [
    Rule(number, rule_class, "T", "N", "x", context=context)
    for number, (rule_class, context) in enumerate(
        (("threat", None), ("threat", False), ("os", None), ("os", True)), 1
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "wanted"), [("threat", [1, 4]), ("any", [1, 3, 4]), ("off", [])]
)  # fmt: skip
def test_the_rule_decides_before_the_setting(setting: Context, wanted: list[int]) -> None:
    """The field of a rule decides, if it has one and context is not off; otherwise the setting does."""
    found = wants_context(RULES, setting)
    assert [rule.rule_id for rule, wants in zip(RULES, found, strict=True) if wants] == wanted


def test_no_rules() -> None:
    """Without rules, the array is empty and still boolean."""
    assert wants_context([], "any").tolist() == []
    assert wants_context([], "any").dtype == bool
