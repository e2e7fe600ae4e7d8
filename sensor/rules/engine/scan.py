"""Decide with Hyperscan which of many rules match a text, in bounded time.

Runs in the capture workers and in ``sensor read``. Two databases do the work. The *screen* holds literals
of each rule: every match contains one. It scans every payload, and nearly always nothing more is needed.
The *decider* holds the rules themselves, and scans only if the screen calls for it. Texts longer than
`SLICE` are scanned slice by slice, until the packet's `Budget` is spent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, reduce
from itertools import chain
from operator import or_
from typing import Any

import hyperscan

from sensor.errors import RulesError
from sensor.native.batch_matcher import Databases
from sensor.rules.regex.literals import Literal, is_ordinary, required
from sensor.rules.regex.render import Renderer
from sensor.rules.regex.tree import Bytes, Node, RegexError, sequence

SLICE = 2048
"""Bytes that are scanned without checking the clock."""

BUDGET_NS = 1_200_000
"""CPU time per packet after which no further costly scan is started."""

Trees = Mapping[int, Node]
"""Lowered trees by rule index."""
MatchEnds = dict[int, int]
"""Where a match ends, by rule index."""
Scan = Callable[[bytes, Callable[..., None], int, MatchEnds], None]
"""Called with a text, `note_match`, 0, and the dictionary to which `note_match` adds the matches."""


class Budget:
    """The CPU time left for the current packet; the clock starts at the first call of `is_spent`."""

    __slots__ = ("_end_ns", "_limit_ns", "is_cut")

    def __init__(self, limit_ns: int | None = None) -> None:
        """Allow ``limit_ns`` of CPU time; by default `BUDGET_NS`."""
        self._limit_ns = limit_ns
        self._end_ns = 0
        self.is_cut = False
        """True if a scan of the packet was broken off or left out."""

    def renew(self) -> None:
        """Start the budget of the next packet."""
        self._end_ns = 0
        self.is_cut = False

    def is_spent(self) -> bool:
        """Return True if no further costly scan may be started."""
        now_ns = time.thread_time_ns()
        if not self._end_ns:
            self._end_ns = now_ns + (BUDGET_NS if self._limit_ns is None else self._limit_ns)
        return now_ns > self._end_ns


def check(tree: Node) -> None:
    """Check that Hyperscan can decide the expression.

    Raises:
        RegexError: It cannot.
    """
    try:
        _compile(hyperscan.HS_MODE_STREAM, [(0, tree)])
    except hyperscan.error as error:
        raise RegexError(f"Hyperscan cannot compile the expression: {error}") from None


class Decider:
    """Decides exactly which rules match a text."""

    def __init__(self, trees: Iterable[tuple[int, Node]]) -> None:
        """Each tree comes with the id under which its matches are reported."""
        self._trees = list(trees)
        self.ids = tuple(number for number, _ in self._trees)
        self.databases = Databases()
        """The compiled databases, serialised."""

    @classmethod
    def restored(cls, ids: Iterable[int], databases: Databases) -> Decider:
        """Return a decider that was compiled earlier."""
        decider = cls(())
        decider.ids, decider.databases = tuple(ids), databases
        return decider

    def compile(self) -> int:
        """Build the databases, and return their size in bytes. Until then, nothing matches.

        Releases the interpreter's lock while it compiles.

        Raises:
            RulesError: The databases would be too large.
        """
        try:
            whole = _compile(hyperscan.HS_MODE_BLOCK, self._trees)
            sliced = _compile(hyperscan.HS_MODE_STREAM, self._trees)
        except hyperscan.error as error:
            raise RulesError(f"Hyperscan cannot compile these rules together, use fewer: {error}") from None
        self._trees = []
        if whole is None or sliced is None:
            return 0
        self.databases = Databases(hyperscan.dumpb(whole), hyperscan.dumpb(sliced))
        return int(whole.size() + sliced.size())

    @cached_property
    def _whole(self) -> hyperscan.Database | None:
        return _load(self.databases.whole, hyperscan.HS_MODE_BLOCK)

    @cached_property
    def _sliced(self) -> hyperscan.Database | None:
        return _load(self.databases.sliced, hyperscan.HS_MODE_STREAM)

    @cached_property
    def scan(self) -> Scan:
        """Scans a text of up to `SLICE` bytes: Hyperscan's own method."""
        return self._whole.scan if self._whole else _scan_nothing

    def add_matches(self, text: bytes, ends: MatchEnds, budget: Budget) -> None:
        """Add the rules that match to ``ends``; a text above `SLICE` is scanned until the budget is spent."""
        if len(text) <= SLICE:
            self.scan(text, note_match, 0, ends)
            return
        if self._sliced is None:
            return
        with self._sliced.stream(note_match, 0, ends) as stream:
            for start in range(0, len(text), SLICE):
                if budget.is_spent():
                    budget.is_cut = True
                    return
                stream.scan(text[start : start + SLICE])


class Screen:
    """Decides which deciders a text needs."""

    def __init__(self, fast_patterns: Decider) -> None:
        self.fast_patterns = fast_patterns
        """The id of a fast pattern is the set of deciders it calls for, as bits."""
        self.always = 0
        """Deciders that every text needs, as bits."""

    @classmethod
    def of(cls, groups: Sequence[Trees], extra: Mapping[Node, int]) -> Screen:
        """Return the screen for deciders of these ``groups`` of rules; its database is not yet compiled.

        An ``extra`` bit is set if its node matches.
        """
        needed = Counter(extra)
        common = Counter(
            literal for trees in groups for tree in trees.values() for literal in chain(*required(tree))
        )
        for number, trees in enumerate(groups):
            for node in {node for tree in trees.values() for node in _fast_patterns(tree, common)}:
                needed[node] |= 1 << number
        return cls(Decider((mask, node) for node, mask in needed.items()))

    def needs(self, text: bytes, budget: Budget) -> int:
        """Return the deciders that the text needs, as bits."""
        masks: MatchEnds = {}
        if len(text) <= SLICE:
            self.fast_patterns.scan(text, note_match, 0, masks)
        else:
            self.fast_patterns.add_matches(text, masks, budget)
        return reduce(or_, masks, self.always) if masks else self.always


def _fast_patterns(tree: Node, common: Counter[Literal]) -> list[Node]:
    """Return rare literals, or the tree itself: every matching text contains at least one of these nodes."""
    rare = [literals for literals in required(tree) if not any(map(is_ordinary, literals))]
    if not rare:
        return [tree]
    best = min(rare, key=lambda literals: (max(common[one] for one in literals), -min(map(len, literals))))
    return [sequence(*map(Bytes, literal)) for literal in best]


def note_match(index: int, _start: int, end: int, _flags: int, ends: Any) -> None:
    """Add a match; Hyperscan calls this."""
    ends[index] = end


def _scan_nothing(_text: bytes, _note: object, _flags: int, _ends: MatchEnds) -> None:
    """Find nothing; used where there are no rules."""


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


def _load(serial: bytes | None, mode: int) -> hyperscan.Database | None:
    if serial is None:
        return None
    database = hyperscan.loadb(serial, mode)
    database.scratch = hyperscan.Scratch(database)
    return database
