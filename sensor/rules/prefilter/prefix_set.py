"""Sets of prefixes, without those that others in the set cover. Used when rules are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from sensor.rules.prefilter.prefix import WORD, Prefix


class PrefixSet:
    """Prefixes of which one must fit, without those that others in the set cover."""

    def __init__(self, found: Iterable[Prefix] = ()) -> None:
        every = _Lengths(found)
        self.prefixes = tuple(sorted((one for one in every if not every.cover(one)), key=_in_payload))
        self._lengths = _Lengths(self.prefixes)

    def __len__(self) -> int:
        return len(self.prefixes)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self.prefixes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrefixSet) and self.prefixes == other.prefixes

    def __hash__(self) -> int:
        return hash(self.prefixes)

    def fits(self, word: int, length: int) -> bool:
        """Return True if a payload of ``length`` bytes that starts with ``word`` has one of the prefixes."""
        return self._lengths.fit(word, length)

    def without(self, other: PrefixSet) -> PrefixSet:
        """Return the prefixes that the other set does not cover."""
        return PrefixSet(one for one in self if one not in other._lengths and not other._lengths.cover(one))


class _Lengths:
    """The least length of each value, by mask."""

    def __init__(self, found: Iterable[Prefix]) -> None:
        self._of: dict[int, dict[int, int]] = {}
        for value, mask, length in found:
            lengths = self._of.setdefault(mask, {})
            lengths[value] = min(length, lengths.get(value, length))
        self._masks = np.array(list(self._of), np.uint64)
        self._wider: dict[int, list[int]] = {}

    def __iter__(self) -> Iterator[Prefix]:
        for mask, lengths in self._of.items():
            for value, length in lengths.items():
                yield Prefix(value, mask, length)

    def __contains__(self, prefix: Prefix) -> bool:
        """Return True if there is the same value and mask, with the same length or a smaller one."""
        value, mask, length = prefix
        return self._of.get(mask, {}).get(value, length + 1) <= length

    def cover(self, prefix: Prefix) -> bool:
        """Return True if a prefix with a wider mask fits everything that this one fits."""
        value, mask, length = prefix
        return any(
            self._of[wider].get(value & wider, length + 1) <= length for wider in self._wider_than(mask)
        )

    def fit(self, word: int, length: int) -> bool:
        return any(lengths.get(word & mask, length + 1) <= length for mask, lengths in self._of.items())

    def _wider_than(self, mask: int) -> list[int]:
        """Return the masks that compare only a part of what this one compares."""
        wider = self._wider.get(mask)
        if wider is None:
            parts = self._masks[self._masks & ~np.uint64(mask) == 0]
            wider = self._wider[mask] = parts[parts != np.uint64(mask)].tolist()
        return wider


def _in_payload(prefix: Prefix) -> tuple[bytes, int, int]:
    """Return a sort key: the order of a prefix's bytes in the payload."""
    return prefix.value.to_bytes(WORD, "little"), prefix.mask, prefix.length
