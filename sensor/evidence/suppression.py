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

    def admit(self, pieces: Sequence[Evidence]) -> list[Evidence]:
        """Give the pieces that may be written: those of which one match at least is below the limit.

        A piece without a match, kept for its flow, is always written.
        """
        if not self._limit:
            return list(pieces)
        admitted: list[Evidence] = []
        held: list[Evidence] = []
        for piece in pieces:
            (admitted if self._is_admitted(piece) else held).append(piece)
        self.suppressed += len(held)
        self.matches.update(rule_classes(held))
        return admitted

    def _is_admitted(self, piece: Evidence) -> bool:
        counts = self._second(piece.timestamp_ns // _NS)
        flow = _flow(piece)
        below = not piece.matches
        for match in piece.matches:
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


def _flow(piece: Evidence) -> tuple[object, ...]:
    """Both directions of a five-tuple and VLAN are one flow."""
    protocol, source, sport, destination, dport = piece.five_tuple
    ends = sorted(((source, sport), (destination, dport)))
    return (protocol, *ends, tuple(tci & 0x0FFF for tci in piece.vlan))
