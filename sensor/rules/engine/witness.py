"""Texts that a rule must hit, made from its tree: what an engine is tried with before it is trusted.

Used when rules are compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import cycle, islice, zip_longest

from sensor.rules.engine.scan import SLICE
from sensor.rules.engine.spans import SpanFinder
from sensor.rules.regex.charset import WORDS
from sensor.rules.regex.tree import Bytes, Choice, Group, Node, Repeat, Sequence, is_anchored

LONGEST = 512
"""Bytes of a text; more only where the rule hits nothing shorter."""
MOST = 64
"""Texts of a rule. Every branch is in one of them, as long as there are no more branches."""
OFFSETS = 65
"""Bytes in front of a text are 0 up to one less: as far as vector instructions see at once."""
_PLACEMENTS = 4
"""Offsets that each text is tried at, at least."""

_BEFORE = (b"x", b" ", b"x" * 63 + b"\n")
_BEHIND = (b"x", b"", b" ", b"\n")
_TAIL = 41
_MIXED = 4
_MANY = 20
"""Times a repeat is taken once, beyond its least: as many as vector instructions skip at once."""


def texts(node: Node) -> list[bytes]:
    """List texts that the node matches, places aside; the first is among the shortest."""
    match node:
        case Bytes(values):
            return _members(values)
        case Sequence(nodes):
            return _short(_beside(list(map(texts, nodes))))
        case Choice(nodes):
            rounds = zip_longest(*map(texts, nodes))
            return _short([text for one in rounds for text in one if text is not None])
        case Repeat(inner, least, most):
            return _repeated(texts(inner), least, most)
        case Group(_, inner):
            return texts(inner)
        case _:
            return [b""]


def placed(tree: Node, captures: SpanFinder) -> Iterator[bytes]:
    """Yield payloads that a lowered tree hits, RE2 says: its texts among other bytes, at all offsets.

    Where it may hit anywhere, it does so behind 0 to `OFFSETS` - 1 bytes, and across the edge of a slice.
    """
    found = texts(tree)
    rounds = max(_PLACEMENTS, -(-OFFSETS // len(found)))
    anchored = is_anchored(tree)
    for number, text in enumerate(found):
        for turn in range(rounds):
            offset = 0 if anchored else (turn * OFFSETS // rounds + number) % OFFSETS
            yield from _hit(captures, text, offset, (7 * turn + 3 * number) % _TAIL, turn + number)
    for turn, edge in enumerate((SLICE - 1, SLICE - len(found[0]) // 2, SLICE, SLICE + OFFSETS)):
        text = found[turn * len(found) // 4]
        yield from _hit(captures, text, 0 if anchored else max(edge, 0), SLICE, turn)


def _hit(captures: SpanFinder, text: bytes, offset: int, tail: int, turn: int) -> Iterator[bytes]:
    """Yield the text among such bytes that the rule hits, if there are any."""
    for before in _turned(_BEFORE if offset else (b"",), turn):
        for behind in _turned(_BEHIND, turn):
            payload = (before * offset)[len(before) * offset - offset :] + text + behind * tail
            if captures.hit_end(payload, 0, len(payload)) >= 0:
                yield payload
                return


def _turned(values: tuple[bytes, ...], turn: int) -> tuple[bytes, ...]:
    at = turn % len(values)
    return values[at:] + values[:at]


@lru_cache
def _members(values: frozenset[int]) -> list[bytes]:
    """Pick some of a set: letters and digits first, its edges, and what is no part of a word."""
    ordered = sorted(values)
    usual = [value for value in ordered if chr(value).isascii() and chr(value).isalnum()]
    others = sorted(values - WORDS)
    picked = dict.fromkeys(usual[:1] + usual[-1:] + others[:1] + ordered[:1] + ordered[-1:])
    return [bytes((value,)) for value in picked]


def _beside(parts: list[list[bytes]]) -> list[bytes]:
    """Join a text of each part until each of them was taken, and a few times out of step, too."""
    many = max(map(len, parts), default=1)
    steps = [(number, 0) for number in range(many)] + [(number, 1) for number in range(min(many - 1, _MIXED))]
    found = [b"".join(part[(at + out * i) % len(part)] for i, part in enumerate(parts)) for at, out in steps]
    return list(dict.fromkeys(found))


def _repeated(inner: list[bytes], least: int, most: int | None) -> list[bytes]:
    """Repeat as rarely as may be, and a little more; at one time each text, at another all in turn."""
    counts = [
        count for count in (least, least + 1, least + 3, least + _MANY) if most is None or count <= most
    ]
    found = [text * count for count in counts for text in inner]
    found += [b"".join(islice(cycle(inner), counts[-1]))]
    return _short(list(dict.fromkeys(found)))


def _short(found: list[bytes]) -> list[bytes]:
    fitting = [text for text in found if len(text) <= LONGEST]
    return fitting[:MOST] or [min(found, key=len)]
