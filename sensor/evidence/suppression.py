"""Suppression: limits the evidence per rule, flow and second, so that a flood cannot fill the disk.

Runs in the process that writes evidence, before the writer. Suppressed items are counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from sensor.model import Evidence, rule_classes

_NS = 1_000_000_000
_SECONDS_KEPT = 4
"""Seconds of packet time counted in parallel, because the rings of different CPUs are not in order."""


class Suppressor:
    """Counts items of evidence per rule, flow and second of packet time."""

    def __init__(self, limit: int) -> None:
        """Admit ``limit`` items per rule, flow and second; 0 admits all."""
        self.suppressed = 0
        """Frames suppressed."""
        self.matches: Counter[str] = Counter()
        """Matches in suppressed frames, by rule class."""
        self._limit = limit
        self._counts: dict[int, defaultdict[tuple[object, ...], int]] = {}

    def admit(self, items: Sequence[Evidence]) -> list[Evidence]:
        """Return the items to write: those with at least one match below the limit.

        An item without matches, which is kept because of its flow, is always admitted.
        """
        if not self._limit:
            return list(items)
        admitted: list[Evidence] = []
        suppressed: list[Evidence] = []
        for item in items:
            (admitted if self._is_admitted(item) else suppressed).append(item)
        self.suppressed += len(suppressed)
        self.matches.update(rule_classes(suppressed))
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
    """Return a key for both directions of a five-tuple and VLAN."""
    protocol, source, sport, destination, dport = item.five_tuple
    ends = sorted(((source, sport), (destination, dport)))
    return (protocol, *ends, tuple(item.vlan_ids))
