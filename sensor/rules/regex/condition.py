"""Conditions that lookarounds set on the text, as sets of short texts. Used when rules are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product

from sensor.rules.regex.charset import ALL
from sensor.rules.regex.tree import (
    NEVER,
    NOTHING,
    Bytes,
    Choice,
    Group,
    Look,
    Node,
    Position,
    RegexError,
    Repeat,
    Sequence,
    check_extent,
    choice,
    sequence,
)

_LONGEST = 32
_MOST_TEXTS = 128

Text = tuple[frozenset[int] | Position, ...]
"""One set of bytes per position; the last entry may be `Position.END`."""
_END: Text = (Position.END,)


@dataclass(frozen=True)
class TextCondition:
    """One of the texts must come next (``positive``), or none of them may."""

    texts: frozenset[Text]
    positive: bool

    def settled(self) -> bool | None:
        """Return True if it holds whatever follows, False if it fails whatever follows, None otherwise."""
        if () in self.texts:
            return self.positive
        return None if self.texts else not self.positive

    def holds_at_end(self) -> bool:
        """Return True if it holds at the end of the text."""
        return self.positive == any(text[0] is Position.END for text in self.texts)

    def after(self, values: frozenset[int]) -> Iterator[tuple[TextCondition, frozenset[int]]]:
        """Split a set of next bytes by the condition that remains after each of them."""
        left: dict[int, set[Text]] = {}
        for first, *rest in self.texts:
            for value in values & first if isinstance(first, frozenset) else ():
                left.setdefault(value, set()).add(tuple(rest))
        parts: dict[frozenset[Text], set[int]] = {}
        for value in left:
            parts.setdefault(frozenset(left[value]), set()).add(value)
        if len(left) < len(values):
            parts.setdefault(frozenset(), set()).update(values - left.keys())
        for texts, part in sorted(parts.items(), key=lambda one: min(one[1])):
            yield TextCondition(texts, self.positive), frozenset(part)


def lookahead(node: Node, positive: bool) -> TextCondition:
    """Return the condition that a lookahead for a node sets on the text after it.

    Raises:
        RegexError: The node does not stand for a few short texts.
    """
    return TextCondition(frozenset(_ahead_texts(node)), positive)


def lookbehind(node: Node, positive: bool) -> TextCondition:
    """Return the condition that a lookbehind for a node sets on the text before it.

    Raises:
        RegexError: The node does not stand for a few short texts.
    """
    texts = _texts(node, "lookbehind")
    # A match starts after the text and has at least one byte, so the end of the text is not there.
    return TextCondition(frozenset(text for text in texts if Position.END not in text), positive)


def spelled(condition: TextCondition) -> Node:
    """Return a node for all texts that satisfy a condition, no longer than it needs."""
    settled = condition.settled()
    if settled is not None:
        return NOTHING if settled else NEVER
    branches = [sequence(Bytes(part), spelled(left)) for left, part in condition.after(ALL)]
    return choice(*branches, *((Position.END,) if condition.holds_at_end() else ()))


def spelled_before(condition: TextCondition) -> Node:
    """Return a node for all texts that may precede a match, from the text's start or of fixed length."""
    backwards = TextCondition(frozenset(text[::-1] for text in condition.texts), condition.positive)
    length = max(map(len, condition.texts), default=0)
    branches = [_spelled_back(backwards, length)]
    for many in reversed(range(length)):
        branches.insert(0, sequence(Position.START, _spelled_back(backwards, many)))
        check_extent(choice(*branches), "the lookbehind written out")
    return choice(*branches)


def _spelled_back(condition: TextCondition, length: int) -> Node:
    """Return a node for all texts of ``length`` bytes that, read backwards, satisfy a condition."""
    settled = condition.settled()
    if settled is not None:
        return Repeat(Bytes(ALL), length, length, greedy=True) if settled else NEVER
    if length == 0:
        return NOTHING if condition.holds_at_end() else NEVER
    return choice(
        *(sequence(_spelled_back(left, length - 1), Bytes(part)) for left, part in condition.after(ALL))
    )


def _ahead_texts(node: Node) -> set[Text]:
    """List the texts that a lookahead requires; an end that any text satisfies is left out."""
    match node:
        case Sequence(()):
            return {()}
        case Sequence((*first, last)):
            return _joined(_texts(Sequence(tuple(first)), "lookahead"), _ahead_texts(last))
        case Choice(nodes):
            return _united(map(_ahead_texts, nodes))
        case Group(_, inner) | Look(inner, True, True):
            return _ahead_texts(inner)
        case Repeat(inner, least):
            head = Repeat(inner, least - 1, least - 1, greedy=True)
            return _joined(_texts(head, "lookahead"), _ahead_texts(inner)) if least else {()}
        case _:
            return _texts(node, "lookahead")


def _texts(node: Node, kind: str) -> set[Text]:
    """List all texts that a node matches; ``kind`` names the lookaround in error messages."""
    match node:
        case Bytes(values):
            return {(values,)}
        case Position.END:
            return {_END}
        case Sequence(nodes):
            texts: set[Text] = {()}
            for inner in nodes:
                texts = _joined(texts, _texts(inner, kind))
            return texts
        case Choice(nodes):
            return _united(_texts(inner, kind) for inner in nodes)
        case Group(_, inner):
            return _texts(inner, kind)
        case Repeat(inner, least, most) if most is not None and most <= _LONGEST:
            return _repeated(_texts(inner, kind) if most else {()}, least, most)
        case Repeat():
            raise RegexError(f"a {kind} must have a bounded length (at most {_LONGEST} bytes)")
        case _:
            dollar = "no $ but at its end" if kind == "lookahead" else "no $"
            raise RegexError(f"a {kind} must be plain text: no nested lookaround, no \\b, no ^, {dollar}")


def _repeated(once: set[Text], least: int, most: int) -> set[Text]:
    """List the texts that consist of ``least`` to ``most`` of these."""
    texts: set[Text] = {()}
    for _ in range(least):
        texts = _joined(texts, once)
    found = texts
    for _ in range(most - least):
        texts = _joined(texts, once)
        found = _united((found, texts))
    return found


def _joined(left: set[Text], right: set[Text]) -> set[Text]:
    """List the texts that begin with one of the left ones, followed by one of the right ones."""
    return _few(
        a if a[-1:] == _END else a + b
        for a, b in product(left, right)
        if a[-1:] != _END or b in ((), _END)  # no byte follows the end
    )


def _united(parts: Iterable[set[Text]]) -> set[Text]:
    return _few(chain.from_iterable(parts))


def _few(texts: Iterable[Text]) -> set[Text]:
    """Return the texts, unless they are too many or too long."""
    found = set()
    for text in texts:
        found.add(text)
        if len(found) > _MOST_TEXTS or len(text) > _LONGEST:
            raise RegexError(
                f"lookarounds must stand for at most {_MOST_TEXTS} texts of at most {_LONGEST} bytes"
            )
    return found
