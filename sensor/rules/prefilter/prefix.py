"""What a payload has to begin with for a rule to hit it. Runs where rules are loaded, never beside a packet.

Everything here errs on one side: a prefix may fit payloads that its rule does not hit, never the
other way round. Lookarounds are gone from a lowered tree, places in it only narrow what it hits,
and where there is too much to list, prefixes get shorter.
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
"""Bytes at the start of a payload that are looked at."""
_MOST_PATHS = 64
_MOST_CUBES = 4
"""Values under masks that one set of bytes is split into."""
_MOST_OF_A_TEXT = 4
"""Prefixes that one text is split into."""
_MOST_OF_A_RULE = 64
_LONGEST = 64
"""Greatest length that is asked for."""

_Text = tuple[frozenset[int], ...]
"""Sets of bytes one behind the other, at most `WORD` of them."""


class Prefix(NamedTuple):
    """Payloads of ``length`` bytes or more that begin with ``value`` where ``mask`` has ones.

    Value and mask are little-endian words over the first `WORD` bytes; a payload that is shorter
    is continued with zeroes.
    """

    value: int
    mask: int
    length: int

    @property
    def is_anything(self) -> bool:
        """Whether nothing is asked of the bytes."""
        return self.mask == 0

    def is_among(self, others: Iterable[Prefix]) -> bool:
        """Whether one of the others asks the same of the bytes."""
        return any(self[:2] == other[:2] for other in others)

    def cut(self, size: int) -> Prefix:
        """Ask nothing of the bytes behind the first ``size``."""
        kept = (1 << 8 * size) - 1
        return Prefix(self.value & kept, self.mask & kept, self.length)


ANYTHING = Prefix(0, 0, 0)


def word_of(payload: bytes) -> int:
    """Return the first bytes of a payload as prefixes see them."""
    return int.from_bytes(payload[:WORD], "little")


def prefixes(rule: Rule, http: HttpReading) -> frozenset[Prefix]:
    """List the prefixes of which a payload has one at least where the rule hits it.

    None at all: the rule can hit nothing.
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
        if len(words) <= _MOST_OF_A_RULE:
            break
    return frozenset(Prefix(value, mask, _rounded(length)) for value, mask in words)


def _rounded(length: int) -> int:
    """Round down to a power of two: the verifier follows every length that is compared on its own."""
    return min(1 << length.bit_length() - 1, _LONGEST)


def beginnings(http: HttpReading) -> frozenset[Prefix]:
    """List the prefixes of payloads that look like HTTP."""
    return frozenset(
        Prefix(word_of(text), (1 << 8 * len(text)) - 1, max(SHORTEST, len(text))) for text in http.beginnings
    )


class _Path(NamedTuple):
    """How a match can begin."""

    text: _Text
    is_whole: bool
    """Whether what follows the node comes right behind; else nothing more is known."""


_START = _Path((), is_whole=True)


def _paths(node: Node) -> set[_Path]:
    """List how matches of a node can begin."""
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
        case _:  # a place or a mark
            return {_START}


def _repeated(turn: set[_Path], least: int, most: int | None) -> set[_Path]:
    """Repeat paths; `WORD` turns that are not empty fill all that is looked at."""
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
    """Cut paths as much as it takes for them to be few."""
    for length in range(WORD, -1, -1):
        found = {_Path(text[:length], is_whole and len(text) < length) for text, is_whole in paths}
        if len(found) <= _MOST_PATHS:
            break
    return found


def _joint(text: _Text, beginning: bytes) -> Iterator[_Text]:
    """Yield the text that begins with both, where there is one."""
    spelled = [frozenset((byte,)) for byte in beginning]
    both = tuple(left & right for left, right in zip_longest(text, spelled, fillvalue=ALL))
    if all(both):
        yield both


def _words(text: _Text) -> list[tuple[int, int]]:
    """Write a text as values under masks, which together fit all that it does, and little more."""
    words = [(0, 0)]
    for position, values in enumerate(text):
        cubes = _cubes(values)
        if len(words) * len(cubes) > _MOST_OF_A_TEXT:
            cubes = [_hull(values)]
        shift = 8 * position
        words = [(value | v << shift, mask | m << shift) for value, mask in words for v, m in cubes]
    return words


def _hull(values: Iterable[int]) -> tuple[int, int]:
    """Return the one value and mask that fit all of a set of bytes."""
    ones, zeroes = reduce(and_, values), 0xFF ^ reduce(or_, values)
    return ones, ones | zeroes


def _cubes(values: frozenset[int]) -> list[tuple[int, int]]:
    """Split a set of bytes into few values and masks; into one that fits up to twice as many at best."""
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


class PrefixSet:
    """Prefixes of which one has to fit, without those that others make needless."""

    def __init__(self, found: Iterable[Prefix]) -> None:
        self._lengths: dict[int, dict[int, int]] = {}
        """The least length of each value, by mask."""
        for value, mask, length in found:
            lengths = self._lengths.setdefault(mask, {})
            lengths[value] = min(length, lengths.get(value, length))
        self.prefixes = tuple(
            sorted((one for one in self._all() if not self._has_wider(one)), key=_in_payload)
        )
        self._lengths = {}
        for value, mask, length in self.prefixes:
            self._lengths.setdefault(mask, {})[value] = length

    def __len__(self) -> int:
        return len(self.prefixes)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self.prefixes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrefixSet) and self.prefixes == other.prefixes

    def __hash__(self) -> int:
        return hash(self.prefixes)

    def fits(self, word: int, length: int) -> bool:
        """Whether a payload of ``length`` bytes, of which ``word`` are the first, may be hit."""
        return any(lengths.get(word & mask, length + 1) <= length for mask, lengths in self._lengths.items())

    def without(self, other: PrefixSet) -> PrefixSet:
        """Return those that the other set does not make needless."""
        return PrefixSet(prefix for prefix in self if not other._has_as_wide(prefix))

    def _all(self) -> Iterator[Prefix]:
        for mask, lengths in self._lengths.items():
            for value, length in lengths.items():
                yield Prefix(value, mask, length)

    def _has_wider(self, prefix: Prefix) -> bool:
        return any(
            mask != prefix.mask and _is_wider(mask, lengths, prefix)
            for mask, lengths in self._lengths.items()
        )

    def _has_as_wide(self, prefix: Prefix) -> bool:
        return any(_is_wider(mask, lengths, prefix) for mask, lengths in self._lengths.items())


def _in_payload(prefix: Prefix) -> tuple[bytes, int, int]:
    """Order prefixes by their bytes as they lie in the payload."""
    return prefix.value.to_bytes(WORD, "little"), prefix.mask, prefix.length


def _is_wider(mask: int, lengths: dict[int, int], prefix: Prefix) -> bool:
    """Whether a value under a mask fits all that the prefix does."""
    value, asked, length = prefix
    return not mask & ~asked and lengths.get(value & mask, length + 1) <= length
