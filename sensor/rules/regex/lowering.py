"""Trees without lookarounds: conditions on the text become part of the expression, exactly.

``(?!ssh)-`` is ``-``, ``foo(?!bar)[a-z]+`` spells out the ways not to start with "bar", and
``foo$`` marks the end of the hit before an optional final newline. Neither Hyperscan nor RE2
knows lookarounds. What can be said this way is said; what cannot is refused, and named.
Used when rules are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from sensor.rules.regex.tree import (
    NEVER,
    NOTHING,
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
    choice,
    contains,
    sequence,
    shortest,
    simplified,
)

_ALL = frozenset(range(256))
_LONGEST = 32
_MOST_TEXTS = 128
_MOST_STEPS = 20_000

_Text = tuple[frozenset[int] | Position, ...]
"""Sets of bytes one behind the other; `Position.END` may come last."""


def lower(tree: Node) -> Node:
    """Return a tree without `Look` that hits the same texts at the same places.

    Where the hit is shorter than what the tree consumes, `Mark` nodes say where it starts and
    ends. Raises `RegexError` for lookarounds that have no such form.
    """
    return simplified(_Lowering().lower(tree) if contains(tree, Look) else tree)


def fits(tree: Node, beginnings: Iterable[bytes]) -> bool:
    """Whether a lowered tree may match at the start of a text that has one of these beginnings."""
    texts = frozenset(tuple(frozenset((byte,)) for byte in beginning) for beginning in beginnings)
    try:
        return _Lowering().push(_Condition(texts, positive=True), (tree,)) != NEVER
    except RegexError:  # too much to spell out: it may
        return True


@dataclass(frozen=True)
class _Condition:
    """That one of the texts comes next, or that none does."""

    texts: frozenset[_Text]
    positive: bool

    def settled(self) -> bool | None:
        """Whether it holds or fails whatever follows; None where that is open."""
        if () in self.texts:
            return self.positive
        return None if self.texts else not self.positive

    def holds_at_end(self) -> bool:
        """Whether it holds where the text ends."""
        return self.positive == any(text[0] is Position.END for text in self.texts)

    def after(self, values: frozenset[int]) -> Iterator[tuple[_Condition, frozenset[int]]]:
        """Split a set of next bytes by what is left of the condition behind each."""
        parts: dict[frozenset[_Text], set[int]] = {}
        for value in sorted(values):
            left = frozenset(
                text[1:] for text in self.texts if isinstance(text[0], frozenset) and value in text[0]
            )
            parts.setdefault(left, set()).add(value)
        for left, part in parts.items():
            yield _Condition(left, self.positive), frozenset(part)


class _Lowering:
    """Rewrites one tree, within a limited number of steps."""

    def __init__(self) -> None:
        self._steps = 0

    def lower(self, tree: Node) -> Node:
        """Lower a whole tree."""
        nodes = tree.nodes if isinstance(tree, Sequence) else (tree,)
        match nodes[0]:
            case Look(node, ahead=False) as look:
                condition = _Condition(frozenset(_texts(node, "lookbehind")), look.positive)
                return sequence(_context(condition), Mark.HIT_START, self._ahead_of(nodes[1:]))
        return self._ahead_of(nodes)

    def _ahead_of(self, nodes: tuple[Node, ...]) -> Node:
        """Lower nodes that stand one behind the other, and behind which the expression ends."""
        lowered: tuple[Node, ...] = ()
        for node in reversed(nodes):
            if not contains(node, Look):
                lowered = (node, *lowered)
                continue
            match node:
                case Look(inner, ahead, positive):
                    if not ahead:
                        raise RegexError("a lookbehind nowhere but at the start of the expression")
                    lowered = (self.push(_Condition(frozenset(_ahead_texts(inner)), positive), lowered),)
                case Sequence(inner):
                    lowered = (self._ahead_of((*inner, *lowered)),)
                case Choice(inner):
                    lowered = (choice(*(self._ahead_of((branch, *lowered)) for branch in inner)),)
                case Group():
                    lowered = (self._ahead_of((*_opened(node), *lowered)),)
                case Repeat(inner, 0, 1, greedy):
                    branches = ((inner, *lowered), lowered) if greedy else (lowered, (inner, *lowered))
                    lowered = (choice(*map(self._ahead_of, branches)),)
                case Repeat(inner, least, most, greedy):
                    body = self._ahead_of((inner, Mark.REPEATED))
                    lowered = (Repeat(body, least, most, greedy), *lowered)
        return sequence(*lowered)

    def push(self, condition: _Condition, nodes: tuple[Node, ...]) -> Node:
        """Make nodes satisfy a condition on the text from their start on."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise RegexError("lookarounds that are simpler: these spell out too long")
        settled = condition.settled()
        if settled is not None:
            return sequence(*nodes) if settled else NEVER
        if not nodes:
            return sequence(Mark.HIT_END, _spelled(condition))
        match nodes[0]:
            case Position.END:
                return sequence(*nodes) if condition.holds_at_end() else NEVER
            case Mark.REPEATED:
                raise RegexError("a lookahead that does not reach behind the repeated part around it")
            case Position() | Mark():
                return sequence(nodes[0], self.push(condition, nodes[1:]))
        return self._push_into(condition, nodes[0], nodes[1:])

    def _push_into(self, condition: _Condition, first: Node, rest: tuple[Node, ...]) -> Node:
        """Make a node and what follows satisfy a condition that is open."""
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
        raise AssertionError(f"{first} in front of a lookahead")

    def _push_into_repeat(self, condition: _Condition, repeat: Repeat, rest: tuple[Node, ...]) -> Node:
        if shortest(repeat.node) == 0:
            raise RegexError("no lookahead in front of a repeated part that may match nothing")
        branches = []
        if repeat.most != 0:
            most = None if repeat.most is None else repeat.most - 1
            again = Repeat(repeat.node, max(repeat.least - 1, 0), most, repeat.greedy)
            branches.append(self.push(condition, (repeat.node, again, *rest)))
        if repeat.least == 0:
            branches.append(self.push(condition, rest))
        return choice(*(branches if repeat.greedy else reversed(branches)))


def _opened(group: Group) -> tuple[Node, ...]:
    """Write a group as its marks, so that a condition may reach over its edges."""
    return (Mark.GROUP_START, group.node, Mark.GROUP_END) if group.number == 1 else (group.node,)


def _spelled(condition: _Condition) -> Node:
    """Spell out all texts that satisfy a condition, no further than that needs."""
    settled = condition.settled()
    if settled is not None:
        return NOTHING if settled else NEVER
    branches = [sequence(Bytes(part), _spelled(left)) for left, part in condition.after(_ALL)]
    return choice(*branches, *((Position.END,) if condition.holds_at_end() else ()))


def _context(condition: _Condition) -> Node:
    """Spell out what may stand in front of a hit, from the text's start or over a fixed length."""
    backwards = _Condition(frozenset(text[::-1] for text in condition.texts), condition.positive)
    length = max(map(len, condition.texts), default=0)
    near_start = [sequence(Position.START, _spelled_back(backwards, many)) for many in range(length)]
    return choice(*near_start, _spelled_back(backwards, length))


def _spelled_back(condition: _Condition, length: int) -> Node:
    """Spell out all texts of ``length`` bytes whose end, read backwards, satisfies a condition."""
    settled = condition.settled()
    if settled is not None:
        return Repeat(Bytes(_ALL), length, length, greedy=True) if settled else NEVER
    if length == 0:
        return NOTHING if condition.holds_at_end() else NEVER
    return choice(
        *(sequence(_spelled_back(left, length - 1), Bytes(part)) for left, part in condition.after(_ALL))
    )


def _ahead_texts(node: Node) -> set[_Text]:
    """List the texts that a lookahead asks for; what may follow them as it likes is left out."""
    match node:
        case Sequence(()):
            return {()}
        case Sequence((*first, last)):
            return _joined(_texts(Sequence(tuple(first)), "lookahead"), _ahead_texts(last))
        case Choice(nodes):
            return set().union(*map(_ahead_texts, nodes))
        case Group(_, inner) | Look(inner, True, True):
            return _ahead_texts(inner)
        case Repeat(inner, least):
            head = Repeat(inner, least - 1, least - 1, greedy=True)
            return _joined(_texts(head, "lookahead"), _ahead_texts(inner)) if least else {()}
        case _:
            return _texts(node, "lookahead")


def _texts(node: Node, where: str) -> set[_Text]:
    """List the texts that a node matches, where they are few and short."""
    match node:
        case Bytes(values):
            return {(values,)}
        case Position.END:
            return {(Position.END,)}
        case Sequence(nodes):
            texts: set[_Text] = {()}
            for inner in nodes:
                texts = _joined(texts, _texts(inner, where))
            return texts
        case Choice(nodes):
            return set().union(*(_texts(inner, where) for inner in nodes))
        case Group(_, inner):
            return _texts(inner, where)
        case Repeat(inner, least, most) if most is not None and most <= _LONGEST:
            repeats = (Sequence((inner,) * many) for many in range(least, most + 1))
            return set().union(*(_texts(repeat, where) for repeat in repeats))
        case Repeat():
            raise RegexError(f"a {where} of bounded length (at most {_LONGEST} bytes)")
        case _:
            raise RegexError(f"a {where} of plain text: no lookaround or \\b in it, nor ^ or $ in its middle")


def _joined(left: set[_Text], right: set[_Text]) -> set[_Text]:
    joined = {a + b for a, b in product(left, right) if not b or Position.END not in a}
    if len(joined) > _MOST_TEXTS or max(map(len, joined), default=0) > _LONGEST:
        raise RegexError(f"lookarounds of at most {_MOST_TEXTS} texts of {_LONGEST} bytes")
    return joined
