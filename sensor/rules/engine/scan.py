"""Hyperscan: which of many rules hit a text, decided in bounded time.

Runs wherever packets are matched. Two databases do the work. The *screen* holds, for each rule,
texts it cannot hit without; it sees every payload, and nearly always nothing more is needed. The
*decider* holds the rules themselves, and is asked when the screen says so. Texts longer than
`SLICE` are decided slice by slice, as long as the packet's `Budget` lasts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import chain
from operator import or_
from typing import Any

import hyperscan

from sensor.errors import RulesError
from sensor.native import BatchScan
from sensor.rules.regex.literals import Literal, is_ordinary, required
from sensor.rules.regex.render import Renderer
from sensor.rules.regex.tree import Bytes, Node, RegexError, sequence

SLICE = 2048
"""Bytes that are scanned without a look at the clock."""

BUDGET_NS = 2_000_000
"""CPU time of one packet after which nothing further is begun that may take long."""

Trees = Mapping[int, Node]
"""Lowered trees by the index of their rule."""
Hits = dict[int, int]
"""Where a hit ends, by the index of the rule."""
Scan = Callable[[bytes, Callable[..., None], int, Hits], None]
"""Takes a text, `note`, 0, and what `note` adds the hits to."""


class Budget:
    """The CPU time of one packet after the other; the clock starts with the first question."""

    __slots__ = ("_end_ns", "cut")

    def __init__(self) -> None:
        self._end_ns = 0
        self.cut = 0
        """Scans that were broken off."""

    def renew(self) -> None:
        """Begin with the next packet."""
        self._end_ns = 0

    def is_spent(self) -> bool:
        """Whether nothing costly may be begun any more."""
        now_ns = time.thread_time_ns()
        if not self._end_ns:
            self._end_ns = now_ns + BUDGET_NS
        return now_ns > self._end_ns


def check(tree: Node) -> None:
    """Raise `RegexError` where Hyperscan cannot decide the expression."""
    try:
        _compile(hyperscan.HS_MODE_STREAM, [(0, tree)])
    except hyperscan.error as error:
        raise RegexError(f"an expression that Hyperscan can decide: {error}") from None


class Decider:
    """Says exactly which rules hit a text."""

    def __init__(self, trees: Iterable[tuple[int, Node]]) -> None:
        """Each tree comes with the number that its hits are reported by."""
        self._trees = list(trees)
        self._whole: hyperscan.Database | None = None
        self._sliced: hyperscan.Database | None = None
        self._batch_scan: BatchScan | None = None
        self.scan: Scan = _scan_nothing
        """Adds the rules that hit a text of up to `SLICE` bytes; bare, since every packet takes this way."""

    def compile(self) -> int:
        """Build the databases, without which nothing hits, and return their size in bytes.

        Raises `RulesError` where they would be too large. Python's other threads run meanwhile.
        """
        try:
            self._whole = _compile(hyperscan.HS_MODE_BLOCK, self._trees)
            self._sliced = _compile(hyperscan.HS_MODE_STREAM, self._trees)
        except hyperscan.error as error:
            raise RulesError(f"Hyperscan cannot hold these rules together, use fewer: {error}") from None
        if self._whole is None or self._sliced is None:
            return 0
        self.scan = self._whole.scan
        return int(self._whole.size() + self._sliced.size())

    def __getstate__(self) -> tuple[bytes | None, bytes | None]:
        """Keep the databases; the trees they were compiled from have done their part."""
        return _dump(self._whole), _dump(self._sliced)

    def __setstate__(self, state: tuple[bytes | None, bytes | None]) -> None:
        whole, sliced = state
        self._trees, self._batch_scan = [], None
        self._whole = _load(whole, hyperscan.HS_MODE_BLOCK)
        self._sliced = _load(sliced, hyperscan.HS_MODE_STREAM)
        self.scan = self._whole.scan if self._whole else _scan_nothing

    @property
    def batch_scan(self) -> BatchScan | None:
        """Scans many texts of up to `SLICE` bytes at once; None where there is nothing to look for."""
        if self._batch_scan is None and self._whole is not None:
            self._batch_scan = BatchScan(self._whole)
        return self._batch_scan

    def add_hits(self, text: bytes, hits: Hits, budget: Budget) -> None:
        """Add the rules that hit to ``hits``; those in a long text as far as the budget reaches."""
        if len(text) <= SLICE:
            self.scan(text, note, 0, hits)
            return
        if self._sliced is None:
            return
        with self._sliced.stream(note, 0, hits) as stream:
            for start in range(0, len(text), SLICE):
                if budget.is_spent():
                    budget.cut += 1
                    return
                stream.scan(text[start : start + SLICE])


class Screen:
    """Says which of some deciders a text needs."""

    def __init__(self, groups: Sequence[Trees], further: Mapping[Node, int]) -> None:
        """``groups`` are the rules of each decider; ``further`` bits are set where their node hits."""
        needed = Counter(further)
        common = Counter(
            literal for trees in groups for tree in trees.values() for literal in chain(*required(tree))
        )
        for number, trees in enumerate(groups):
            for node in {node for tree in trees.values() for node in _signs(tree, common)}:
                needed[node] |= 1 << number
        self.always = 0
        """Deciders that are asked whatever the text."""
        # The number of a sign is the set of deciders it calls for, bit for bit; Hyperscan reports it once.
        self.signs = Decider((mask, node) for node, mask in needed.items())

    def needs(self, text: bytes, budget: Budget) -> int:
        """Return the deciders the text needs, bit for bit."""
        masks: Hits = {}
        if len(text) <= SLICE:
            self.signs.scan(text, note, 0, masks)
        else:
            self.signs.add_hits(text, masks, budget)
        return reduce(or_, masks, self.always) if masks else self.always


def _signs(tree: Node, common: Counter[Literal]) -> list[Node]:
    """List what a text must contain one of for the tree to match: rare literals, or the tree itself."""
    rare = [literals for literals in required(tree) if not any(map(is_ordinary, literals))]
    if not rare:
        return [tree]
    best = min(rare, key=lambda literals: (max(common[one] for one in literals), -min(map(len, literals))))
    return [sequence(*map(Bytes, literal)) for literal in best]


def note(index: int, _start: int, end: int, _flags: int, hits: Any) -> None:
    """Take a hit from Hyperscan."""
    hits[index] = end


def _scan_nothing(_text: bytes, _note: object, _flags: int, _hits: Hits) -> None:
    """Stand in for the database of no rules."""


def _compile(mode: int, trees: Sequence[tuple[int, Node]]) -> hyperscan.Database | None:
    if not trees:
        return None
    database = hyperscan.Database(mode=mode)
    database.compile(
        expressions=[Renderer().render(tree).encode() for _, tree in trees],
        ids=[index for index, _ in trees],
        elements=len(trees),
        flags=[hyperscan.HS_FLAG_SINGLEMATCH] * len(trees),
    )
    return database


def _dump(database: hyperscan.Database | None) -> bytes | None:
    return hyperscan.dumpb(database) if database else None


def _load(serial: bytes | None, mode: int) -> hyperscan.Database | None:
    if serial is None:
        return None
    database = hyperscan.loadb(serial, mode)
    database.scratch = hyperscan.Scratch(database)
    return database
