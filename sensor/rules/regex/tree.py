"""The syntax tree of a rule's regular expression, and functions that analyse it.

A tree holds only what the expression means on bytes: the parser (`sensor.rules.regex.parser`)
resolves letter case, classes, escapes and options. Used when rules are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from itertools import chain


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


class Mark(Enum):
    """A position whose offset is needed, marked where no capturing group can be used."""

    MATCH_START = auto()
    MATCH_END = auto()
    GROUP_START = auto()
    GROUP_END = auto()
    REPEATED = auto()
    """The end of a repeated part. It has no meaning of its own, and is found only in lowered trees."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """One byte out of a set."""

    values: frozenset[int]


@dataclass(frozen=True, slots=True)
class Sequence:
    """Nodes one after the other; an empty sequence matches the empty string."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Alternatives: the first node with which the rest of the expression matches too."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A node ``least`` to ``most`` times (None: no limit), as often as possible if ``greedy``."""

    node: Node
    least: int
    most: int | None
    greedy: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A capturing group."""

    number: int
    node: Node


@dataclass(frozen=True, slots=True)
class Look:
    """A lookahead or lookbehind: the node must match there (``positive``), or must not."""

    node: Node
    ahead: bool
    positive: bool


Node = Bytes | Sequence | Choice | Repeat | Group | Look | Position | Mark

NOTHING = Sequence(())
NEVER = Bytes(frozenset())
"""A node that matches no text."""


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes directly inside a node."""
    match node:
        case Sequence(nodes) | Choice(nodes):
            return nodes
        case Repeat(inner) | Group(_, inner) | Look(inner):
            return (inner,)
        case _:
            return ()


def contains(node: Node, kind: type[Look | Group | Mark]) -> bool:
    """Return True if the tree contains a node of this kind."""
    return isinstance(node, kind) or any(contains(child, kind) for child in children(node))


def size(node: Node) -> int:
    """Count the nodes of the tree."""
    return 1 + sum(map(size, children(node)))


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


def lengths(node: Node) -> set[int | None]:
    """Return the numbers of bytes that a match can consume; None stands for an unknown number."""
    match node:
        case Bytes():
            return {1}
        case Sequence(nodes):
            sums: set[int | None] = {0}
            for inner in nodes:
                sums = {None if a is None or b is None else a + b for a in sums for b in lengths(inner)}
            return sums
        case Choice(nodes):
            return set().union(*map(lengths, nodes))
        case Repeat(inner, least, most):
            return lengths(Sequence((inner,) * least)) if least == most else {0, None}
        case Group(_, inner):
            return lengths(inner)
        case _:
            return {0}


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
