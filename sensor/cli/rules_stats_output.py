"""What ``sensor rules stats`` prints: what rules cost together, and each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sensor.model import Rule
from sensor.rules.cost import Cost
from sensor.rules.obstacles import Specimen


@dataclass(frozen=True)
class Costs:
    """Everything that was measured."""

    read_ms: float
    """To read the files and parse the regexes."""
    subjects: Sequence[Specimen]
    together: Cost
    each: Sequence[tuple[Rule, Cost]]
    """The slowest rule first."""

    @property
    def payload_bytes(self) -> float:
        """Of a payload, on average."""
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
    """Say in two lines what the rules cost together."""
    together = costs.together
    yield (
        f"{len(costs.each)} rules: {costs.read_ms / 1e3:.1f} s to read, {together.compile_ms / 1e3:.1f} s "
        f"to compile, {together.size_bytes / 2**20:.1f} MiB of databases"
    )
    yield (
        f"{len(costs.subjects)} payloads of {costs.payload_bytes:.0f} bytes on average: "
        f"{together.payload_ns:.0f} ns each, {together.hits} hits"
    )


def rows(costs: Costs) -> Iterator[tuple[str, ...]]:
    """Return a table of the rules, each measured alone."""
    yield ("ns/payload", "hits", "compile ms", "   KiB", "rule", "class", "name")
    for rule, cost in costs.each:
        numbers = (f"{cost.payload_ns:10.0f}", f"{cost.hits:4}", f"{cost.compile_ms:10.1f}")
        yield (*numbers, f"{cost.size_bytes / 1024:6.0f}", str(rule.rule_id), rule.rule_class, rule.name)
