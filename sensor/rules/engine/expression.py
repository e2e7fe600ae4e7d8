"""A rule's regular expression: parsed, checked and lowered. Used when rules are loaded or explained."""

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
    """One regular expression, in the forms that the engines need."""

    def __init__(self, regex: str) -> None:
        """Parse the expression as PCRE does.

        Raises:
            RegexError: The expression is faulty, or cannot be decided in linear time.
        """
        tree = _parsed(regex)
        if shortest(tree) == 0:
            raise RegexError("the expression must not match the empty string")
        _check_repeats(tree)
        self.tree = lower(tree)
        """The lowered tree."""
        if self.tree == NEVER:
            raise RegexError("the expression can never match")
        check(self.tree)
        self.span_finder = SpanFinder(self.tree)


@lru_cache(maxsize=20_000)
def expression(regex: str) -> Expression:
    """Return the expression; unchanged ones come from a cache when rules are reloaded."""
    return Expression(regex)


@lru_cache(maxsize=1024)
def span_finder(regex: str) -> SpanFinder:
    """Return the span finder of a regex that `Expression` accepts; cached, as compiling takes about 1 ms.

    Raises:
        RegexError: The expression is faulty.
    """
    return SpanFinder(lower(_parsed(regex)))


def _parsed(regex: str) -> Node:
    try:
        return parse(regex.encode())
    except UnicodeEncodeError:
        raise RegexError("the text contains a lone surrogate") from None


def _check_repeats(node: Node) -> None:
    """Refuse repeats of parts that can match the empty string, in which engines differ."""
    match node:
        case Repeat(inner, _, most) if most != 1 and shortest(inner) == 0:
            if _has_group_1(inner):
                raise RegexError(
                    "a repeated part that can match the empty string must not contain "
                    "the first capturing group: use (?:…)"
                )
            if most is None and not _is_empty_last(inner):
                raise RegexError("a repeated part must not prefer the empty string to a longer match")
    for child in children(node):
        _check_repeats(child)


def _has_group_1(node: Node) -> bool:
    return (isinstance(node, Group) and node.number == 1) or any(map(_has_group_1, children(node)))


def _is_empty_last(node: Node) -> bool:
    """Return True if a node matches the empty string only after everything else was tried."""
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
