"""The prefixes of a rule: a payload that it matches has at least one of them. Used when rules are loaded.

Everything here is an over-approximation: a prefix may fit payloads that its rule does not match, but
never the reverse. A lowered tree has no lookarounds; its positions, which only restrict what it
matches, are ignored; and if a rule has too many prefixes, they are shortened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import zip_longest
from operator import and_, or_
from typing import NamedTuple

from sensor.model import Rule
from sensor.rules.engine.expression import expression
from sensor.rules.engine.http_payload import SHORTEST, HttpReading
from sensor.rules.regex.charset import ALL
from sensor.rules.regex.tree import Bytes, Choice, Group, Node, Repeat, Sequence, is_anchored, shortest

WORD = 8
"""Bytes at the start of a payload that are compared."""
_MOST_PATHS = 64
_MOST_CUBES = 4
"""Maximum number of value-and-mask pairs per set of bytes."""
_MOST_PER_TEXT = 4
"""Maximum number of prefixes per text."""
_MOST_PER_RULE = 64

_Text = tuple[frozenset[int], ...]
"""One set of bytes per position, at most `WORD` of them."""


class Prefix(NamedTuple):
    """Payloads of at least ``length`` bytes that begin with ``value`` where ``mask`` has ones.

    Value and mask are little-endian words over the first `WORD` bytes; shorter payloads are padded
    with zeroes.
    """

    value: int
    mask: int
    length: int

    @property
    def is_anything(self) -> bool:
        """True if the bytes may be anything."""
        return self.mask == 0


ANYTHING = Prefix(0, 0, 0)


def word_of(payload: bytes) -> int:
    """Return the first bytes of a payload as a word to compare with prefixes."""
    return int.from_bytes(payload[:WORD], "little")


def prefixes(rule: Rule, http: HttpReading) -> frozenset[Prefix]:
    """Return prefixes for a rule: every payload that it matches has at least one of them.

    An empty set means that the rule can match nothing.
    """
    tree = expression(rule.regex).tree
    texts: set[_Text] = {()}
    length = shortest(tree)
    if is_anchored(tree) and (not rule.is_http or (rule.part != "body" and not rule.decode)):
        texts = {text for text, _ in _paths(tree)}
    if rule.is_http:
        length = max(length, SHORTEST)
        texts = {both for text in texts for start in http.beginnings for both in _joint(text, start)}
    for size in range(WORD, -1, -1):
        words = {word for text in texts for word in _words(text[:size])}
        if len(words) <= _MOST_PER_RULE:
            break
    return frozenset(Prefix(value, mask, length) for value, mask in words)


def beginnings(http: HttpReading) -> frozenset[Prefix]:
    """Return the prefixes of payloads that look like HTTP."""
    return frozenset(
        Prefix(word_of(text), (1 << 8 * len(text)) - 1, max(SHORTEST, len(text))) for text in http.beginnings
    )


class _Path(NamedTuple):
    """One way in which a match can begin."""

    text: _Text
    is_whole: bool
    """True if what follows the node comes directly after the text; otherwise nothing more is known."""


_START = _Path((), is_whole=True)


def _paths(node: Node) -> set[_Path]:
    """Return the ways in which matches of a node can begin."""
    match node:
        case Bytes(values):
            return {_Path((values,), is_whole=True)}
        case Sequence(nodes):
            return reduce(_followed, map(_paths, nodes), {_START})
        case Choice(nodes):
            return _few(set().union(*map(_paths, nodes)))
        case Group(_, inner):
            return _paths(inner)
        case Repeat(inner, least, most):
            return _repeated(_paths(inner), least, most)
        case _:  # a position or a mark
            return {_START}


def _repeated(turn: set[_Path], least: int, most: int | None) -> set[_Path]:
    """Repeat paths, at most `WORD` times: that many non-empty turns fill the bytes that are compared."""
    paths = {_START}
    for _ in range(min(least, WORD)):
        paths = _followed(paths, turn)
    found = paths
    for _ in range(WORD if most is None else min(most - least, WORD)):
        paths = _followed(paths, turn)
        found = _few(found | paths)
    return found


def _followed(paths: set[_Path], after: set[_Path]) -> set[_Path]:
    found = {path for path in paths if not path.is_whole}
    for path in paths - found:
        found |= {_Path(path.text + text, is_whole) for text, is_whole in after}
    return _few(found)


def _few(paths: set[_Path]) -> set[_Path]:
    """Shorten paths until there are at most `_MOST_PATHS`."""
    for length in range(WORD, -1, -1):
        found = {_Path(text[:length], is_whole and len(text) < length) for text, is_whole in paths}
        if len(found) <= _MOST_PATHS:
            break
    return found


def _joint(text: _Text, beginning: bytes) -> Iterator[_Text]:
    """Yield the text that begins with both, if there is one."""
    spelled = [frozenset((byte,)) for byte in beginning]
    both = tuple(left & right for left, right in zip_longest(text, spelled, fillvalue=ALL))
    if all(both):
        yield both


def _words(text: _Text) -> list[tuple[int, int]]:
    """Return values and masks that together fit everything that the text fits, and little more."""
    words = [(0, 0)]
    for position, values in enumerate(text):
        cubes = _cubes(values)
        if len(words) * len(cubes) > _MOST_PER_TEXT:
            cubes = [_hull(values)]
        shift = 8 * position
        words = [(value | v << shift, mask | m << shift) for value, mask in words for v, m in cubes]
    return words


def _hull(values: Iterable[int]) -> tuple[int, int]:
    """Return the value and the tightest mask that fit all bytes of a set."""
    ones, zeroes = reduce(and_, values), 0xFF ^ reduce(or_, values)
    return ones, ones | zeroes


def _cubes(values: frozenset[int]) -> list[tuple[int, int]]:
    """Cover a set of bytes with few values and masks."""
    split = _split(values)
    return split if len(split) <= _MOST_CUBES else [_hull(values)]


def _split(values: frozenset[int]) -> list[tuple[int, int]]:
    value, mask = _hull(values)
    free = 0xFF ^ mask
    if 1 << free.bit_count() <= 2 * len(values):
        return [(value, mask)]
    top = 1 << free.bit_length() - 1
    low = frozenset(byte for byte in values if not byte & top)
    return _split(low) + _split(values - low)
