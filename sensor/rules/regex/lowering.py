r"""Rewrite lookarounds exactly, as ordinary parts of the expression. Used when rules are loaded.

Neither Hyperscan nor RE2 supports lookarounds. ``(?!ssh)-`` becomes ``-``; ``foo(?!bar)[a-z]+``
lists the ways not to start with "bar"; ``foo$`` marks the end of the match before an optional final
newline. Lookarounds that cannot be rewritten are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from sensor.rules.regex.condition import TextCondition, lookahead, lookbehind, spelled, spelled_before
from sensor.rules.regex.tree import (
    NEVER,
    Bytes,
    Choice,
    Group,
    Look,
    Mark,
    Node,
    Position,
    RegexError,
    Repeat,
    Sequence,
    check_extent,
    choice,
    sequence,
    shortest,
    simplified,
)

_MOST_WORK = 10_000_000
"""Work that lowering one tree may cost; a million takes about 30 ms."""
_LITTLE_WORK = 200_000
"""The same to find out what `fits`."""
_WORK_PER_STEP = 100
_WORK_PER_NODE = 10


def lower(tree: Node) -> Node:
    """Return a tree without `Look` that matches the same texts at the same positions.

    Where the match is shorter than what the tree consumes, `Mark` nodes give its start and end.

    Raises:
        RegexError: A lookaround cannot be rewritten.
    """
    return simplified(_Lowering(_MOST_WORK).lower(tree) if tree.extent.has_look else tree)


def fits(tree: Node, beginnings: Iterable[bytes]) -> bool:
    """Return True if a lowered tree may match at the start of a text with one of these beginnings."""
    texts = frozenset(tuple(frozenset((byte,)) for byte in beginning) for beginning in beginnings)
    try:
        return _Lowering(_LITTLE_WORK).push(TextCondition(texts, positive=True), (tree,)) != NEVER
    except RegexError:  # too complex to decide
        return True


class _Lowering:
    """Rewrites one tree with a limited amount of work."""

    def __init__(self, work: int) -> None:
        self._work = work

    def lower(self, tree: Node) -> Node:
        """Return the lowered form of a whole tree."""
        nodes = tree.nodes if isinstance(tree, Sequence) else (tree,)
        match nodes[0]:
            case Look(node, ahead=False, positive=positive):
                before = spelled_before(lookbehind(node, positive))
                return self._checked(sequence(before, Mark.MATCH_START, self._lower_sequence(nodes[1:])))
        return self._lower_sequence(nodes)

    def _lower_sequence(self, nodes: tuple[Node, ...]) -> Node:
        """Lower consecutive nodes, after which the expression ends."""
        lowered: tuple[Node, ...] = ()
        for node, plain in _from_the_end(nodes):
            self._spend(len(plain) + len(lowered))
            lowered = (*plain, *lowered)
            match node:
                case Look(inner, ahead, positive):
                    if not ahead:
                        raise RegexError("a lookbehind is allowed only at the start of the expression")
                    lowered = (self.push(lookahead(inner, positive), lowered),)
                case Sequence(inner):
                    lowered = (self._lower_sequence((*inner, *lowered)),)
                case Choice(inner):
                    lowered = (choice(*(self._lower_sequence((branch, *lowered)) for branch in inner)),)
                case Group():
                    lowered = (self._lower_sequence((*_opened(node), *lowered)),)
                case Repeat(inner, 0, 1, greedy):
                    branches = ((inner, *lowered), lowered) if greedy else (lowered, (inner, *lowered))
                    lowered = (choice(*map(self._lower_sequence, branches)),)
                case Repeat(inner, least, most, greedy):
                    body = self._lower_sequence((inner, Mark.REPEATED))
                    lowered = (Repeat(body, least, most, greedy), *lowered)
        return self._checked(sequence(*lowered))

    def push(self, condition: TextCondition, nodes: tuple[Node, ...]) -> Node:
        """Return the nodes restricted to texts that satisfy a condition from their start on."""
        self._spend(len(nodes))
        return self._checked(self._pushed(condition, nodes))

    def _pushed(self, condition: TextCondition, nodes: tuple[Node, ...]) -> Node:
        settled = condition.settled()
        if settled is not None:
            return sequence(*nodes) if settled else NEVER
        if not nodes:
            return sequence(Mark.MATCH_END, spelled(condition))
        match nodes[0]:
            case Position.END:
                return sequence(*nodes) if condition.holds_at_end() else NEVER
            case Mark.REPEATED:
                raise RegexError("a lookahead must not look past the repeated part that contains it")
            case Position() | Mark():
                passed = tuple(takewhile(_is_passed, nodes))
                return sequence(*passed, self.push(condition, nodes[len(passed) :]))
        return self._push_into(condition, nodes[0], nodes[1:])

    def _push_into(self, condition: TextCondition, first: Node, rest: tuple[Node, ...]) -> Node:
        """Apply a condition that is not settled to a node and what follows it."""
        match first:
            case Bytes(values):
                parts = condition.after(values)
                return choice(*(sequence(Bytes(part), self.push(left, rest)) for left, part in parts))
            case Sequence(inner):
                return self.push(condition, (*inner, *rest))
            case Choice(inner):
                return choice(*(self.push(condition, (branch, *rest)) for branch in inner))
            case Group():
                return self.push(condition, (*_opened(first), *rest))
            case Repeat():
                return self._push_into_repeat(condition, first, rest)
        raise AssertionError(f"{first} after a lookahead")

    def _push_into_repeat(self, condition: TextCondition, repeat: Repeat, rest: tuple[Node, ...]) -> Node:
        if shortest(repeat.node) == 0:
            raise RegexError("a lookahead must not precede a repeated part that can match the empty string")
        branches = []
        if repeat.most != 0:
            most = None if repeat.most is None else repeat.most - 1
            again = Repeat(repeat.node, max(repeat.least - 1, 0), most, repeat.greedy)
            branches.append(self.push(condition, (repeat.node, again, *rest)))
        if repeat.least == 0:
            branches.append(self.push(condition, rest))
        return choice(*(branches if repeat.greedy else reversed(branches)))

    def _spend(self, nodes: int) -> None:
        """Account for a step that handles a number of nodes."""
        self._work -= _WORK_PER_STEP + _WORK_PER_NODE * nodes
        if self._work < 0:
            raise RegexError("the lookarounds are too complex; make them shorter")

    def _checked(self, node: Node) -> Node:
        check_extent(node, "the expression with its lookarounds written out")
        return node


def _from_the_end(nodes: tuple[Node, ...]) -> Iterator[tuple[Node | None, tuple[Node, ...]]]:
    """Yield the nodes that have lookarounds from the last to the first, each with the plain nodes after it.

    Then yield None with the plain nodes at the start.
    """
    end = len(nodes)
    for at in reversed(range(len(nodes))):
        if nodes[at].extent.has_look:
            yield nodes[at], nodes[at + 1 : end]
            end = at
    yield None, nodes[:end]


def _is_passed(node: Node) -> bool:
    """Return True if a condition on the text holds before the node if it holds after it."""
    return isinstance(node, Position | Mark) and node not in (Position.END, Mark.REPEATED)


def _opened(group: Group) -> tuple[Node, ...]:
    """Return a group as its marks and its node, so that a condition can reach across its edges."""
    return (Mark.GROUP_START, group.node, Mark.GROUP_END) if group.number == 1 else (group.node,)
