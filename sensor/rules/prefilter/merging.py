"""Merge prefixes into fewer, which fit more payloads, where a table is full. Used when rules are loaded."""

from __future__ import annotations

from collections.abc import Iterable

from sensor.rules.prefilter.prefix import ANYTHING, Prefix
from sensor.rules.prefilter.prefix_set import PrefixSet


def merged(prefixes: Iterable[Prefix], most: int) -> PrefixSet:
    """Merge prefixes until there are at most ``most``.

    Two neighbours in the order of their bytes become the prefix of what they have in common. Those that
    have most in common are merged first: they let the fewest other payloads pass.
    """
    if most < 1:
        return PrefixSet((ANYTHING,))
    found = PrefixSet(prefixes)
    while len(found) > most:
        found = PrefixSet(_closer(found.prefixes, len(found) - most))
    return found


def _closer(ordered: tuple[Prefix, ...], excess: int) -> Iterable[Prefix]:
    """Merge up to ``excess`` pairs of neighbours, none of them twice."""
    common = {at: _common(*ordered[at : at + 2]) for at in range(len(ordered) - 1)}
    left = dict(enumerate(ordered))
    for at in sorted(common, key=lambda at: -common[at].mask.bit_count()):
        if excess and at in left and at + 1 in left:
            del left[at], left[at + 1]
            excess -= 1
            yield common[at]
    yield from left.values()


def _common(one: Prefix, other: Prefix) -> Prefix:
    """Return the narrowest prefix that fits all payloads that one of the two fits."""
    mask = one.mask & other.mask & ~(one.value ^ other.value)
    return Prefix(one.value & mask, mask, min(one.length, other.length))
