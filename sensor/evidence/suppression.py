"""Suppression: limits the evidence per rule, flow and second, so that a flood cannot fill the disk.

Runs in the process that writes evidence, before the writer. Suppressed items are counted.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from sensor.evidence.block import EvidenceBlock
from sensor.native.suppress import SuppressionTable

_NS = 1_000_000_000
_LIMIT_MAX = (1 << 32) - 1


class Suppressor:
    """Counts items of evidence per rule, flow and second of packet time.

    Four seconds are counted at the same time, because the rings of different CPUs are not in order. Memory is
    bounded: beyond some 250,000 rules and flows in these seconds, those with the fewest items are forgotten,
    so more of their items are kept.
    """

    def __init__(self, limit: int) -> None:
        """Admit ``limit`` items per rule, flow and second; 0 admits all."""
        self.suppressed = 0
        """Frames suppressed."""
        self.matches: Counter[str] = Counter()
        """Matches in suppressed frames, by rule class."""
        self._limit = min(limit, _LIMIT_MAX)
        self._table = SuppressionTable()

    def admit(self, block: EvidenceBlock) -> EvidenceBlock:
        """Return the items to write: those with at least one match below the limit.

        An item without matches, which is kept because of its flow, is always admitted.
        """
        if not self._limit or not len(block):
            return block
        items = block.items
        admitted = self._table.admit(
            self._limit, items["time_ns"] // _NS, items["flow"], items["matches"], block.rule_ids
        )
        suppressed = len(block) - int(np.count_nonzero(admitted))
        if not suppressed:
            return block
        chosen = block.select(admitted)
        self.suppressed += suppressed
        self.matches += Counter(block.class_counts()) - Counter(chosen.class_counts())
        return chosen
