"""The extent of a syntax tree: its size once repeats are written out, its depth, and if it has lookarounds.

Used when rules are loaded. Each node knows its extent from the moment it is made. So a tree that is too
large to be walked, or too deep, is refused before anything walks it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Extent(NamedTuple):
    """The extent of a node."""

    states: int
    """Bytes and positions in the node; those of a repeated part count as often as it may be repeated."""
    depth: int
    """Levels of nodes."""
    has_look: bool
    """True if there is a lookahead or lookbehind."""

    def repeated(self, times: int) -> Extent:
        """Return the extent of a node that repeats this one."""
        return Extent(self.states * max(times, 1), self.depth + 1, self.has_look)

    @property
    def states_in_words(self) -> str:
        """The number of states: 123,456 or 10^12."""
        power = len(str(self.states)) - 1
        if power < 7:
            return f"{self.states:,}"
        return f"{'' if self.states == 10**power else 'more than '}10^{power}"


LEAF = Extent(1, 1, has_look=False)
"""The extent of a node without others inside."""


def extent_around(parts: Iterable[Extent]) -> Extent:
    """Return the extent of a node that consists of others; without any, it is one state."""
    states, depth, has_look = 0, 0, False
    for part in parts:
        states += part.states
        depth = max(depth, part.depth)
        has_look = has_look or part.has_look
    return Extent(max(states, 1), depth + 1, has_look)
