"""Sets of prefixes, without those that others in the set cover. Used when rules are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sensor.rules.prefilter.prefix import WORD, Prefix


class PrefixSet:
    """Prefixes of which one must fit, without those that others in the set cover."""

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
        """Return True if a payload of ``length`` bytes that starts with ``word`` has one of the prefixes."""
        return any(lengths.get(word & mask, length + 1) <= length for mask, lengths in self._lengths.items())

    def without(self, other: PrefixSet) -> PrefixSet:
        """Return the prefixes that the other set does not cover."""
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
    """Return a sort key: the order of a prefix's bytes in the payload."""
    return prefix.value.to_bytes(WORD, "little"), prefix.mask, prefix.length


def _is_wider(mask: int, lengths: dict[int, int], prefix: Prefix) -> bool:
    """Return True if a value under ``mask`` fits everything that the prefix fits."""
    value, own_mask, length = prefix
    return not mask & ~own_mask and lengths.get(value & mask, length + 1) <= length
