"""A metric: a name, a type, a help text and labels. Used in the exporter.

Names follow OpenMetrics (https://prometheus.io/docs/specs/om/open_metrics_spec/): base units, and the suffix
``_total`` for counters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: a family of series with the same name."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    series: str = "1"
    """Maximum number of series, in words."""

    @property
    def written_name(self) -> str:
        """The name in the exposition and in PromQL expressions."""
        return f"{self.name}_total" if self.kind == "counter" else self.name
