"""A rule's regular expression made ready: parsed, checked, lowered. Used when rules are loaded."""

from __future__ import annotations

from functools import lru_cache

from sensor.rules.captures import Captures
from sensor.rules.lower import lower
from sensor.rules.pcre import parse
from sensor.rules.regex import NEVER, Group, Node, RegexError, Repeat, children, contains, shortest
from sensor.rules.scan import check


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
        _check_group(tree)
        self.tree = lower(tree)
        """The lowered tree."""
        if self.tree == NEVER:
            raise RegexError("an expression that can match")
        check(self.tree)
        self.captures = Captures(self.tree)


@lru_cache(maxsize=4096)
def expression(regex: str) -> Expression:
    """Return the expression; a reload takes those that did not change from here."""
    return Expression(regex)


def _check_group(node: Node) -> None:
    """Refuse group 1 in a repeated part that may match nothing: engines differ in what it holds then."""
    match node:
        case Repeat(inner, _, most) if most != 1 and shortest(inner) == 0 and contains(inner, Group):
            if _has_group_1(inner):
                raise RegexError("no capturing group in a repeated part that may match nothing: use (?:…)")
    for child in children(node):
        _check_group(child)


def _has_group_1(node: Node) -> bool:
    return (isinstance(node, Group) and node.number == 1) or any(map(_has_group_1, children(node)))
