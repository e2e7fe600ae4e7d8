"""Suppression: so many pieces of evidence a rule, flow and second, no more; a flood cannot fill the disk.

Runs in front of the evidence writer. What is held back is counted, never silently gone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from sensor.model import Evidence, rule_classes

_NS = 1_000_000_000
_SECONDS_KEPT = 4
"""Seconds of packet time that are counted side by side: rings of several CPUs have no order between them."""


class Suppressor:
    """Counts pieces of evidence by rule, flow and second of the packets' own time."""

    def __init__(self, limit: int) -> None:
        """Let ``limit`` pieces of a rule, flow and second through; 0 for all."""
        self.suppressed = 0
        """Frames held back."""
        self.matches: Counter[str] = Counter()
        """Matches of these, by the class of their rules."""
        self._limit = limit
        self._counts: dict[int, defaultdict[tuple[object, ...], int]] = {}

    def admit(self, items: Sequence[Evidence]) -> list[Evidence]:
        """Give the pieces that may be written: those of which one match at least is below the limit.

        A piece without a match, kept for its flow, is always written.
        """
        if not self._limit:
            return list(items)
        admitted: list[Evidence] = []
        held: list[Evidence] = []
        for item in items:
            (admitted if self._is_admitted(item) else held).append(item)
        self.suppressed += len(held)
        self.matches.update(rule_classes(held))
        return admitted

    def _is_admitted(self, item: Evidence) -> bool:
        counts = self._second(item.timestamp_ns // _NS)
        flow = _flow(item)
        below = not item.matches
        for match in item.matches:
            key = (match.rule.rule_id, flow)
            if counts[key] < self._limit:
                below = True
                counts[key] += 1
        return below

    def _second(self, second: int) -> defaultdict[tuple[object, ...], int]:
        if second not in self._counts:
            while len(self._counts) >= _SECONDS_KEPT:
                del self._counts[next(iter(self._counts))]
            self._counts[second] = defaultdict(int)
        return self._counts[second]


def _flow(item: Evidence) -> tuple[object, ...]:
    """Both directions of a five-tuple and VLAN are one flow."""
    protocol, source, sport, destination, dport = item.five_tuple
    ends = sorted(((source, sport), (destination, dport)))
    return (protocol, *ends, tuple(tci & 0x0FFF for tci in item.vlan))
