"""Faults in rule files. Used when rules are loaded or checked, in any process that does so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sensor.errors import RulesError


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in a rule file."""

    path: Path
    line: int | None
    rule_id: str | None
    field: str | None
    problem: str
    """The fault in words: what is wrong, and what was expected."""

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        rule = f"rule {self.rule_id}" if self.rule_id else None
        return ": ".join(part for part in (place, rule, self.field, self.problem) if part)


class FaultyRulesError(RulesError):
    """A rules directory has faults; ``faults`` holds them all, and the message has one line per fault."""

    def __init__(self, faults: tuple[Fault, ...], fine: int = 0) -> None:
        """Hold the faults; ``fine`` is the number of rules without any."""
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults
        self.fine = fine
