"""Decide with Hyperscan which of many rules match a text.

Two databases do the work. The *screen* holds literals of each rule: every match contains one. It scans every
payload, and nearly always nothing more is needed. The *decider* holds the rules themselves, and scans only if
the screen calls for it. Payloads are scanned in C (`sensor.native.batch_matcher`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import hyperscan

from sensor.errors import RulesError
from sensor.native import hyperscan_complaint
from sensor.native.batch_matcher import Databases
from sensor.rules.regex.literals import Literal, is_ordinary, required
from sensor.rules.regex.render import Renderer
from sensor.rules.regex.tree import Bytes, Node, RegexError, sequence

SLICE = 2048
"""Longer texts are scanned in slices of so many bytes."""

SCREEN_BITS = 17
"""Bits of a fast pattern's id that call for deciders, or for decoding."""
_NUMBERS = 1 << 32 - SCREEN_BITS
_SURELY_COMPILED = 128
"""States of an expression that Hyperscan compiles if it can read it, which takes a fifteenth of the time. Its
limits are at some thousand states."""
_MOST_ALIKE = 256
"""Patterns with the same id. Hyperscan scans faster if there are many, but it compiles them in a time that
grows with the square of their number."""

Trees = Mapping[int, Node]
"""Lowered trees by rule index."""


def check(tree: Node) -> None:
    """Check that Hyperscan can decide the expression.

    Raises:
        RegexError: It cannot.
    """
    if tree.extent.states <= _SURELY_COMPILED:
        complaint = hyperscan_complaint(Renderer().render(tree).encode(), hyperscan.HS_FLAG_SINGLEMATCH)
        if complaint is None:
            return
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


class Screened(NamedTuple):
    """A rule as a screen sees it."""

    tree: Node
    literals: list[frozenset[Literal]]
    """Every match contains a literal of each set."""

    @classmethod
    def of(cls, tree: Node) -> Screened:
        """Find the literals of a lowered tree."""
        return cls(tree, required(tree))


class Screen:
    """Decides which deciders a text needs."""

    def __init__(self, fast_patterns: Decider) -> None:
        self.fast_patterns = fast_patterns
        """The id of a fast pattern is the set of deciders it calls for, as bits below `SCREEN_BITS`.

        The higher bits have no meaning. They keep the number of patterns with the same id small.
        """

    @classmethod
    def of(cls, groups: Sequence[Sequence[Screened]], extra: Mapping[Node, int]) -> Screen:
        """Return the screen for deciders of these ``groups`` of rules; its database is not yet compiled.

        An ``extra`` bit is set if its node matches.
        """
        needed = Counter(extra)
        common = Counter(literal for group in groups for one in group for literal in chain(*one.literals))
        for number, group in enumerate(groups):
            for node in {node for one in group for node in _fast_patterns(one, common)}:
                needed[node] |= 1 << number
        return cls(Decider(_numbered(needed)))


def _numbered(needed: Mapping[Node, int]) -> Iterator[tuple[int, Node]]:
    """Yield the id of each fast pattern with its node."""
    used: Counter[int] = Counter()
    for node, mask in needed.items():
        yield used[mask] // _MOST_ALIKE % _NUMBERS << SCREEN_BITS | mask, node
        used[mask] += 1


def _fast_patterns(one: Screened, common: Counter[Literal]) -> list[Node]:
    """Return rare literals, or the tree itself: every matching text contains at least one of these nodes."""
    rare = [literals for literals in one.literals if not any(map(is_ordinary, literals))]
    if not rare:
        return [one.tree]
    best = min(rare, key=lambda literals: (max(common[one] for one in literals), -min(map(len, literals))))
    return [sequence(*map(Bytes, literal)) for literal in best]


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
