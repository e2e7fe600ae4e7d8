"""The syntax tree of a rule's regular expression, and functions that analyse it.

A tree holds only what the expression means on bytes: the parser (`sensor.rules.regex.parser`)
resolves letter case, classes, escapes and options. Used when rules are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain
from typing import ClassVar

from sensor.rules.regex.extent import LEAF, Extent, extent_around

MOST_STATES = 30_000
"""States of an expression; Hyperscan and RE2 refuse nearly all larger ones, but only after much work."""
MOST_DEPTH = 150
"""Levels of nodes. What walks a tree calls itself once or twice per level, and Python allows 1,000 calls."""


class RegexError(ValueError):
    """An expression that cannot be used; the message says what is wrong with it."""


class Position(Enum):
    """A position in the text that an expression can ask for."""

    START = auto()
    """Before the first byte."""
    LINE_START = auto()
    """Before the first byte of a line."""
    LINE_END = auto()
    """Before a newline, or after the last byte."""
    END = auto()
    """After the last byte."""
    WORD = auto()
    """Between a word byte and a non-word byte, or between a word byte and an end of the text."""
    NOT_WORD = auto()

    @property
    def extent(self) -> Extent:
        """One state."""
        return LEAF


class Mark(Enum):
    """A position whose offset is needed, marked where no capturing group can be used."""

    MATCH_START = auto()
    MATCH_END = auto()
    GROUP_START = auto()
    GROUP_END = auto()
    REPEATED = auto()
    """The end of a repeated part. It has no meaning of its own, and is found only in lowered trees."""

    @property
    def extent(self) -> Extent:
        """One state."""
        return LEAF


@dataclass(frozen=True, slots=True)
class Bytes:
    """One byte out of a set."""

    values: frozenset[int]
    extent: ClassVar[Extent] = LEAF


@dataclass(frozen=True, slots=True)
class _Compound:
    """A node that consists of others; its extent is known from the moment it is made."""

    extent: Extent = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "extent", self._measured())

    def _measured(self) -> Extent:
        return extent_around(node.extent for node in children(self))


@dataclass(frozen=True, slots=True)
class Sequence(_Compound):
    """Nodes one after the other; an empty sequence matches the empty string."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice(_Compound):
    """Alternatives: the first node with which the rest of the expression matches too."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat(_Compound):
    """A node ``least`` to ``most`` times (None: no limit), as often as possible if ``greedy``."""

    node: Node
    least: int
    most: int | None
    greedy: bool

    def _measured(self) -> Extent:
        return self.node.extent.repeated(self.least if self.most is None else self.most)


@dataclass(frozen=True, slots=True)
class Group(_Compound):
    """A capturing group."""

    number: int
    node: Node


@dataclass(frozen=True, slots=True)
class Look(_Compound):
    """A lookahead or lookbehind: the node must match there (``positive``), or must not."""

    node: Node
    ahead: bool
    positive: bool

    def _measured(self) -> Extent:
        return extent_around((self.node.extent,))._replace(has_look=True)


Node = Bytes | Sequence | Choice | Repeat | Group | Look | Position | Mark


def children(node: object) -> tuple[Node, ...]:
    """Return the nodes directly inside a node."""
    match node:
        case Sequence(nodes) | Choice(nodes):
            return nodes
        case Repeat(inner) | Group(_, inner) | Look(inner):
            return (inner,)
        case _:
            return ()


NOTHING = Sequence(())
NEVER = Bytes(frozenset())
"""A node that matches no text."""


def check_extent(node: Node, what: str = "the expression") -> None:
    """Check that a tree is small enough to be walked and compiled.

    Raises:
        RegexError: It is too large or too deep; ``what`` names it in the message.
    """
    extent = node.extent
    if extent.states > MOST_STATES:
        raise RegexError(
            f"{what} expands to {extent.states_in_words} states ({MOST_STATES:,} are allowed); "
            "use smaller repeats"
        )
    if extent.depth > MOST_DEPTH:
        raise RegexError(f"{what} is nested too deeply; use fewer groups inside groups")


def shortest(node: Node) -> int:
    """Return the least number of bytes that a match consumes."""
    match node:
        case Bytes():
            return 1
        case Sequence(nodes):
            return sum(map(shortest, nodes))
        case Choice(nodes):
            return min(map(shortest, nodes))
        case Repeat(inner, least):
            return least * shortest(inner)
        case Group(_, inner):
            return shortest(inner)
        case _:
            return 0


def longest(node: Node) -> int | None:
    """Return the greatest number of bytes that a match consumes; None if there is no limit."""
    match node:
        case Bytes():
            return 1
        case Sequence(nodes):
            parts = [longest(inner) for inner in nodes]
            return None if None in parts else sum(part or 0 for part in parts)
        case Choice(nodes):
            parts = [longest(inner) for inner in nodes]
            return None if None in parts else max((part or 0 for part in parts), default=0)
        case Repeat(inner, _, most):
            part = longest(inner)
            if part == 0 or most == 0:
                return 0
            return None if part is None or most is None else part * most
        case Group(_, inner):
            return longest(inner)
        case _:
            return 0


def is_anchored(node: Node) -> bool:
    """Return True if a match can begin only at the start of the text."""
    match node:
        case Position.START:
            return True
        case Sequence((first, *_)):
            return is_anchored(first)
        case Choice(nodes):
            return all(map(is_anchored, nodes))
        case Repeat(inner, least):
            return least > 0 and is_anchored(inner)
        case Group(_, inner):
            return is_anchored(inner)
        case _:
            return False


def fixed_length(node: Node) -> int | None:
    """Return the number of bytes that every match consumes; None if it is not the same for all."""
    match node:
        case Bytes():
            return 1
        case Sequence(nodes):
            parts = [fixed_length(inner) for inner in nodes]
            return None if None in parts else sum(filter(None, parts))
        case Choice(nodes):
            of_branches = {fixed_length(inner) for inner in nodes}
            return of_branches.pop() if len(of_branches) == 1 else None
        case Repeat(inner, least, most):
            once = 0 if most == 0 else fixed_length(inner)
            return None if once is None or least != most else once * least
        case Group(_, inner):
            return fixed_length(inner)
        case _:
            return 0


def sequence(*nodes: Node) -> Node:
    """Return the nodes one after the other, without nested sequences."""
    flat = tuple(chain.from_iterable(n.nodes if isinstance(n, Sequence) else (n,) for n in nodes))
    if NEVER in flat:
        return NEVER
    return flat[0] if len(flat) == 1 else Sequence(flat)


def simplified(node: Node) -> Node:
    """Return the tree without branches that can never match; `NEVER` if nothing is left."""
    match node:
        case Sequence(nodes):
            return sequence(*map(simplified, nodes))
        case Choice(nodes):
            return choice(*map(simplified, nodes))
        case Repeat(inner, least, most, greedy):
            inner = simplified(inner)
            if inner == NEVER or most == 0:
                return NOTHING if least == 0 else NEVER
            return Repeat(inner, least, most, greedy)
        case Group(number, inner):
            inner = simplified(inner)
            return NEVER if inner == NEVER else Group(number, inner)
        case _:
            return node


def without(node: Node, positions: frozenset[Position]) -> Node:
    """Return the tree without some positions: it matches wherever the tree does, and perhaps elsewhere."""
    if not positions:
        return node
    match node:
        case Sequence(nodes):
            return sequence(*(without(inner, positions) for inner in nodes))
        case Choice(nodes):
            return choice(*(without(inner, positions) for inner in nodes))
        case Repeat(inner, least, most, greedy):
            return Repeat(without(inner, positions), least, most, greedy)
        case Group(number, inner):
            return Group(number, without(inner, positions))
        case Position() if node in positions:
            return NOTHING
        case _:
            return node


def choice(*nodes: Node) -> Node:
    """Return the nodes as alternatives, without those that never match."""
    possible = tuple(node for node in nodes if node != NEVER)
    if not possible:
        return NEVER
    return possible[0] if len(possible) == 1 else Choice(possible)
