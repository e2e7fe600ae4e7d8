"""Output of ``sensor rules stats``: the cost of all rules together, and of each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sensor.model import Rule
from sensor.rules.cost import Cost
from sensor.rules.obstacles import Specimen
from sensor.text import count_of


@dataclass(frozen=True)
class Costs:
    """The measurements."""

    read_ms: float
    """Time to read the files and parse the expressions."""
    subjects: Sequence[Specimen]
    together: Cost
    each: Sequence[tuple[Rule, Cost]]
    """The slowest rule first."""

    @property
    def payload_bytes(self) -> float:
        """Average length of a payload."""
        return sum(len(subject.payload) for subject in self.subjects) / len(self.subjects)


def costs_object(costs: Costs) -> dict[str, Any]:
    """Return the figures, ready for JSON."""
    return {
        "rules": len(costs.each),
        "read_ms": costs.read_ms,
        "payloads": len(costs.subjects),
        "payload_bytes": costs.payload_bytes,
        "together": asdict(costs.together),
        "each": [
            {"rule": rule.rule_id, "class": rule.rule_class, "name": rule.name, **asdict(cost)}
            for rule, cost in costs.each
        ],
    }


def summary_lines(costs: Costs) -> Iterator[str]:
    """Yield the cost of all rules together, in two lines."""
    together = costs.together
    yield (
        f"{count_of(len(costs.each), 'rule')}: {costs.read_ms / 1e3:.1f} s to read, "
        f"{together.compile_ms / 1e3:.1f} s to compile, {together.size_bytes / 2**20:.1f} MiB of databases"
    )
    yield (
        f"{count_of(len(costs.subjects), 'payload')} of {costs.payload_bytes:.0f} bytes on average: "
        f"{together.payload_ns:.0f} ns each, {count_of(together.hits, 'match')}"
    )


def rows(costs: Costs) -> Iterator[tuple[str, ...]]:
    """Yield a table of the rules, each measured alone."""
    yield ("ns/payload", "matches", "compile ms", "   KiB", "rule", "class", "name")
    for rule, cost in costs.each:
        numbers = (f"{cost.payload_ns:10.0f}", f"{cost.hits:7}", f"{cost.compile_ms:10.1f}")
        yield (*numbers, f"{cost.size_bytes / 1024:6.0f}", str(rule.rule_id), rule.rule_class, rule.name)
