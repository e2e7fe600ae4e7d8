"""A rule's regular expression made ready: parsed, checked, lowered. Used when rules are loaded."""

from __future__ import annotations

from functools import lru_cache

from sensor.rules.engine.scan import check
from sensor.rules.engine.spans import SpanFinder
from sensor.rules.regex.lowering import lower
from sensor.rules.regex.parser import parse
from sensor.rules.regex.tree import (
    NEVER,
    Choice,
    Group,
    Node,
    RegexError,
    Repeat,
    Sequence,
    children,
    shortest,
)


class Expression:
    """What the engines need of one regular expression."""

    def __init__(self, regex: str) -> None:
        """Read it as PCRE does. Raises `RegexError` where it is faulty or cannot be decided."""
        try:
            tree = parse(regex.encode())
        except UnicodeEncodeError:
            raise RegexError("text without lone surrogates") from None
        if shortest(tree) == 0:
            raise RegexError("an expression that cannot match nothing at all")
        _check_repeats(tree)
        self.tree = lower(tree)
        """The lowered tree."""
        if self.tree == NEVER:
            raise RegexError("an expression that can match")
        check(self.tree)
        self.captures = SpanFinder(self.tree)


@lru_cache(maxsize=4096)
def expression(regex: str) -> Expression:
    """Return the expression; a reload takes those that did not change from here."""
    return Expression(regex)


def _check_repeats(node: Node) -> None:
    """Refuse repeats of what may match nothing, where engines differ in what they find."""
    match node:
        case Repeat(inner, _, most) if most != 1 and shortest(inner) == 0:
            if _has_group_1(inner):
                raise RegexError("no capturing group in a repeated part that may match nothing: use (?:…)")
            if most is None and not _is_empty_last(inner):
                raise RegexError("no repeated part that would rather match nothing than more")
    for child in children(node):
        _check_repeats(child)


def _has_group_1(node: Node) -> bool:
    return (isinstance(node, Group) and node.number == 1) or any(map(_has_group_1, children(node)))


def _is_empty_last(node: Node) -> bool:
    """Whether a node matches nothing only after all else was tried."""
    match node:
        case Choice(nodes):
            empty = [shortest(inner) == 0 for inner in nodes]
            return True not in empty[:-1] and _is_empty_last(nodes[-1])
        case Repeat(inner, least, most, greedy):
            return (greedy or least == most) and _is_empty_last(inner)
        case Sequence() | Group():
            return all(map(_is_empty_last, children(node)))
        case _:
            return True
