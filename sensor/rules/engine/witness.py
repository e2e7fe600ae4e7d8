"""Witness texts: texts that a rule must match, made from its tree. Used when rules are compiled.

An engine is tried on them before it is trusted (`sensor.rules.engine.proof`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import cycle, islice, zip_longest

from sensor.rules.engine.scan import SLICE
from sensor.rules.engine.spans import SpanFinder
from sensor.rules.regex.charset import WORDS
from sensor.rules.regex.tree import (
    Bytes,
    Choice,
    Group,
    Node,
    Position,
    Repeat,
    Sequence,
    is_anchored,
    without,
)

LONGEST = 512
"""Greatest length of a text in bytes; it is exceeded only if the rule matches nothing shorter."""
MOST = 64
"""Maximum number of texts per rule. With up to that many branches, every branch is in one of them."""
OFFSETS = 65
"""Texts are preceded by 0 to `OFFSETS` - 1 bytes: vector instructions see as far at once."""
_PLACEMENTS = 4
"""Least number of offsets at which each text is tried."""

_BEFORE = (b"x", b" ", b"x" * 63 + b"\n")
_AFTER = (b"x", b"", b" ", b"\n")
_POSITIONS = frozenset(Position)
_TAIL = 41
_MIXED = 4
_MANY = 20
"""Repetitions beyond the least, tried once: as many as vector instructions skip at once."""


def witness_texts(node: Node) -> list[bytes]:
    """Return texts that the node matches, ignoring positions; the first is among the shortest."""
    match node:
        case Bytes(values):
            return _members(values)
        case Sequence(nodes):
            return _short(_concatenated(list(map(witness_texts, nodes))))
        case Choice(nodes):
            rounds = zip_longest(*map(witness_texts, nodes))
            return _short([text for one in rounds for text in one if text is not None])
        case Repeat(inner, least, most):
            return _repeated(witness_texts(inner), least, most)
        case Group(_, inner):
            return witness_texts(inner)
        case _:
            return [b""]


def witness_payloads(tree: Node, span_finder: SpanFinder) -> Iterator[bytes]:
    """Yield payloads that a lowered tree matches according to RE2: its texts among other bytes.

    If the tree can match anywhere, texts are preceded by 0 to `OFFSETS` - 1 bytes, and some of them
    cross the edge of a slice. RE2 sees texts alone if the bytes around them cannot matter.
    """
    found = witness_texts(tree)
    matches: Callable[[bytes], bool] = span_finder.matches
    if without(tree, _POSITIONS) == tree and all(map(matches, found)):
        matches = bool
    rounds = max(_PLACEMENTS, -(-OFFSETS // len(found)))
    anchored = is_anchored(tree)
    for number, text in enumerate(found):
        for turn in range(rounds):
            offset = 0 if anchored else (turn * OFFSETS // rounds + number) % OFFSETS
            yield from _matching(matches, text, offset, (7 * turn + 3 * number) % _TAIL, turn + number)
    for turn, edge in enumerate((SLICE - 1, SLICE - len(found[0]) // 2, SLICE, SLICE + OFFSETS)):
        text = found[turn * len(found) // 4]
        yield from _matching(matches, text, 0 if anchored else max(edge, 0), SLICE, turn)


def _matching(
    matches: Callable[[bytes], bool], text: bytes, offset: int, tail: int, turn: int
) -> Iterator[bytes]:
    """Yield the text with the first bytes around it with which the rule matches, if there are any."""
    for before in _rotated(_BEFORE if offset else (b"",), turn):
        for after in _rotated(_AFTER, turn):
            payload = (before * offset)[len(before) * offset - offset :] + text + after * tail
            if matches(payload):
                yield payload
                return


def _rotated(values: tuple[bytes, ...], turn: int) -> tuple[bytes, ...]:
    at = turn % len(values)
    return values[at:] + values[:at]


@lru_cache
def _members(values: frozenset[int]) -> list[bytes]:
    """Return some bytes of a set: letters and digits first, then a non-word byte, then its edges."""
    ordered = sorted(values)
    usual = [value for value in ordered if chr(value).isascii() and chr(value).isalnum()]
    others = sorted(values - WORDS)
    picked = dict.fromkeys(usual[:1] + usual[-1:] + others[:1] + ordered[:1] + ordered[-1:])
    return [bytes((value,)) for value in picked]


def _concatenated(parts: list[list[bytes]]) -> list[bytes]:
    """Join one text of each part until every text has been used; then repeat some with shifted pairings."""
    many = max(map(len, parts), default=1)
    steps = [(number, 0) for number in range(many)] + [(number, 1) for number in range(min(many - 1, _MIXED))]
    found = [b"".join(part[(at + out * i) % len(part)] for i, part in enumerate(parts)) for at, out in steps]
    return list(dict.fromkeys(found))


def _repeated(inner: list[bytes], least: int, most: int | None) -> list[bytes]:
    """Repeat each text: the least number of times, a few more times, and once alternating with the others."""
    counts = [
        count for count in (least, least + 1, least + 3, least + _MANY) if most is None or count <= most
    ]
    found = [text * count for count in counts for text in inner]
    found += [b"".join(islice(cycle(inner), counts[-1]))]
    return _short(list(dict.fromkeys(found)))


def _short(found: list[bytes]) -> list[bytes]:
    fitting = [text for text in found if len(text) <= LONGEST]
    return fitting[:MOST] or [min(found, key=len)]
