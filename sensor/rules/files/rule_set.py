"""A set of rules. Used in every process that handles rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sensor.model import Rule
from sensor.rules.files.rule_fault import Fault


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one directory, in class and file order."""

    rules: tuple[Rule, ...]
    digest: str
    """SHA-256 of the files, hexadecimal."""
    faults: tuple[Fault, ...] = ()
    """Faults of the rules that a lenient load skipped."""

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)
