"""Budgets: when space is short, no source and no rule displaces all other evidence, no flood threats.

Context displaces nothing.

Runs in the supervisor, before the evidence is written. What is above a budget is suppressed and counted.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.file_name import FileKind
from sensor.evidence.retention import Space

BudgetName = Literal["space", "source", "rule"]
BUDGET_NAMES: tuple[BudgetName, ...] = get_args(BudgetName)

DAY_S = 86_400
_COLUMNS = 1 << 14
_SHIFT = np.uint64(64 - 14)


class Budgets:
    """Admits evidence as long as its source and its rules have room, and, without threats, if there is space.

    A source, an IPv4 address or an IPv6 /64, may take its share of the space at once, and again in a day; so
    may a rule. Evidence with threats has its own shares. Shares are only enforced while space is short.
    Context may only use the room that is left.
    """

    def __init__(
        self, source_percent: float, rule_percent: float, open_bytes: Callable[[], dict[FileKind, int]]
    ) -> None:
        """``open_bytes`` returns the size of the open files of each kind."""
        self.context_suppressed = 0
        """Frames of context suppressed for want of space."""
        self.suppressed: Counter[BudgetName] = Counter(dict.fromkeys(BUDGET_NAMES, 0))
        """Other frames suppressed, by budget."""
        self.matches: Counter[str] = Counter()
        """Matches in suppressed frames, by rule class."""
        self._open_bytes = open_bytes
        self._space = Space()
        self._room = self._context_room = inf
        self._ledgers = [_Ledger(source_percent, rule_percent) for _ in ("others", "threats")]
        self._now_s: float | None = None

    def update(self, space: Space, now_s: float) -> None:
        """Go on with the latest report about the space, at a time that only runs forward."""
        if space is not self._space:
            self._space = space
            open_bytes = self._open_bytes()
            self._room = min(space.room, space.open_limit - open_bytes[FileKind.OTHER])
            self._context_room = min(space.context_room, space.context_limit - open_bytes[FileKind.CONTEXT])
        passed_s = 0.0 if self._now_s is None else now_s - self._now_s
        if self._now_s is None or passed_s >= 1:
            for ledger, capacity in zip(self._ledgers, (space.others, space.threats), strict=True):
                ledger.age(capacity, passed_s)
            self._now_s = now_s

    def admit(self, block: EvidenceBlock) -> EvidenceBlock:
        """Return the items to write."""
        if not len(block):
            return block
        admitted = np.ones(len(block), np.bool_)
        threat, context = block.is_threat, block.is_context
        sizes = block.record_bytes.astype(np.float64)
        for ledger, chosen in zip(self._ledgers, (~(threat | context), threat), strict=True):
            if chosen.any():
                keys = ledger.keys(block)
                if self._space.is_short:
                    self._refuse("source", admitted, chosen & ~ledger.has_source_room(keys))
                    self._refuse("rule", admitted, chosen & ~ledger.has_rule_room(keys, block))
                if chosen is not threat and self._room < inf:
                    above = np.cumsum(np.where(admitted & chosen, sizes, 0)) > self._room
                    self._refuse("space", admitted, chosen & above)
                    self._room -= float(sizes[admitted & chosen].sum())
                ledger.charge(keys, block, np.where(admitted & chosen, sizes, 0))
        if context.any():
            self._admit_context(context, sizes, admitted)
        if admitted.all():
            return block
        kept = block.select(admitted)
        self.matches += Counter(block.class_counts()) - Counter(kept.class_counts())
        return kept

    def _admit_context(
        self, context: NDArray[np.bool_], sizes: NDArray[np.float64], admitted: NDArray[np.bool_]
    ) -> None:
        """Suppress the items of context for which there is no room."""
        refused = context & (np.cumsum(np.where(context, sizes, 0)) > self._context_room)
        self.context_suppressed += int(np.count_nonzero(refused))
        self._context_room -= float(sizes[context & ~refused].sum())
        admitted &= ~refused

    def _refuse(self, budget: BudgetName, admitted: NDArray[np.bool_], refused: NDArray[np.bool_]) -> None:
        """Suppress the refused items that are still admitted."""
        refused = admitted & refused
        self.suppressed[budget] += int(np.count_nonzero(refused))
        admitted &= ~refused


class _Keys:
    """Places of the sources of a block's items, and of the rules of its matches: shape (2, n)."""

    def __init__(self, sources: NDArray[np.intp], rules: NDArray[np.intp]) -> None:
        self.sources, self.rules = sources, rules


class _Ledger:
    """Bytes by source and by rule, in tables of fixed size; those that share both places share a budget.

    An attacker does not know the places (count-min sketch, Cormode and Muthukrishnan 2005).
    """

    def __init__(self, source_percent: float, rule_percent: float) -> None:
        self._shares = source_percent / 100, rule_percent / 100
        self._sources, self._rules = np.zeros((2, _COLUMNS)), np.zeros((2, _COLUMNS))
        self._limits = [inf, inf]
        self._factors = np.array([[secrets.randbits(64) | 1] for _ in range(2)], np.uint64)

    def age(self, capacity: float, seconds: float) -> None:
        """Let budgets recover, and set them for a space of this many bytes."""
        for number, (table, share) in enumerate(zip((self._sources, self._rules), self._shares, strict=True)):
            limit = capacity * share if share < 1 else inf
            self._limits[number] = limit
            if limit < inf:
                np.maximum(table - limit * seconds / DAY_S, 0, out=table)

    def keys(self, block: EvidenceBlock) -> _Keys:
        """Return the places of a block."""
        networks = np.ascontiguousarray(block.items["source"][:, :8]).view(np.uint64)[:, 0]
        sources = networks ^ block.items["ip_version"].astype(np.uint64) << np.uint64(56)
        return _Keys(self._places(sources), self._places(block.rule_ids.astype(np.uint64)))

    def has_source_room(self, keys: _Keys) -> NDArray[np.bool_]:
        """Return True for each item whose source is below its budget."""
        has_room: NDArray[np.bool_] = _level(self._sources, keys.sources) < self._limits[0]
        return has_room

    def has_rule_room(self, keys: _Keys, block: EvidenceBlock) -> NDArray[np.bool_]:
        """Return True for each item without a match, or with one whose rule is below its budget."""
        has_room: NDArray[np.bool_] = block.items["matches"] == 0
        has_room[block.item_of_match[_level(self._rules, keys.rules) < self._limits[1]]] = True
        return has_room

    def charge(self, keys: _Keys, block: EvidenceBlock, sizes: NDArray[np.float64]) -> None:
        """Add the sizes of items to their sources and rules."""
        for row in range(2):
            self._sources[row] += np.bincount(keys.sources[row], sizes, _COLUMNS)
            self._rules[row] += np.bincount(keys.rules[row], sizes[block.item_of_match], _COLUMNS)

    def _places(self, values: NDArray[np.uint64]) -> NDArray[np.intp]:
        mixed = values * self._factors
        mixed ^= mixed >> np.uint64(29)
        return (mixed * self._factors >> _SHIFT).astype(np.intp)


def _level(table: NDArray[np.float64], places: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the bytes at places of shape (2, n); the smaller of two has less of others."""
    level: NDArray[np.float64] = np.minimum(table[0, places[0]], table[1, places[1]])
    return level
