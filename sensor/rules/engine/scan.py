"""Decide with Hyperscan which of many rules match a text.

Two databases do the work. The *screen* holds literals of each rule: every match contains one. It scans every
payload, and nearly always nothing more is needed. The *decider* holds the rules themselves, and scans only if
the screen calls for it. Payloads are scanned in C (`sensor.native.batch_matcher`); the methods here that scan
are for texts that prove the databases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
"""Longer texts are scanned in slices of so many bytes."""

Trees = Mapping[int, Node]
"""Lowered trees by rule index."""


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

    def matches(self, text: bytes) -> set[int]:
        """Return the ids of the expressions that match."""
        found: set[int] = set()
        if len(text) <= SLICE:
            if self._whole:
                self._whole.scan(text, _note_match, 0, found)
        elif self._sliced:
            with self._sliced.stream(_note_match, 0, found) as stream:
                for start in range(0, len(text), SLICE):
                    stream.scan(text[start : start + SLICE])
        return found


class Screen:
    """Decides which deciders a text needs."""

    def __init__(self, fast_patterns: Decider) -> None:
        self.fast_patterns = fast_patterns
        """The id of a fast pattern is the set of deciders it calls for, as bits."""

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

    def needs(self, text: bytes) -> int:
        """Return the deciders that the text needs, as bits."""
        return reduce(or_, self.fast_patterns.matches(text), 0)


def _fast_patterns(tree: Node, common: Counter[Literal]) -> list[Node]:
    """Return rare literals, or the tree itself: every matching text contains at least one of these nodes."""
    rare = [literals for literals in required(tree) if not any(map(is_ordinary, literals))]
    if not rare:
        return [tree]
    best = min(rare, key=lambda literals: (max(common[one] for one in literals), -min(map(len, literals))))
    return [sequence(*map(Bytes, literal)) for literal in best]


def _note_match(index: int, _start: int, _end: int, _flags: int, found: Any) -> None:
    """Add a match; Hyperscan calls this."""
    found.add(index)


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
