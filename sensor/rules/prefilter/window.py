"""Windows: neighbouring bits of a payload's first word, by which a row selects the next state.

Used when rules are loaded.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sensor.rules.prefilter.prefix import WORD, Prefix

_BYTE = 8
_PARTS = ((0, 5), (0, 4), (4, 4), (6, 2))
"""Parts of a byte that tell common values apart: letters of any case, digits, kinds of characters."""
_CROWD = 4
"""A row's most crowded column is this many times better than as many prefixes in all columns."""
_MANY_COLUMNS = 256
"""Number of columns that costs as much as one prefix more in all columns."""


class Window(NamedTuple):
    """Bits of the first word of a payload."""

    shift: int
    width: int
    """At most 8 bits."""

    @property
    def bits(self) -> int:
        """The mask that selects them."""
        return (1 << self.width) - 1 << self.shift

    def open_bits(self, prefix: Prefix) -> int:
        """Return how many of the bits a prefix leaves open."""
        return self.width - (prefix.mask & self.bits).bit_count()

    def columns(self, prefix: Prefix) -> Iterator[int]:
        """Yield the values that the bits can have in payloads with a prefix."""
        bits = (1 << self.width) - 1
        value, open_ = prefix.value >> self.shift & bits, bits & ~(prefix.mask >> self.shift)
        part = open_
        while True:
            yield value | part
            if not part:
                return
            part = part - 1 & open_

    def spread(self, prefixes: Iterable[Prefix]) -> list[tuple[Prefix, ...]]:
        """Return the prefixes that payloads can have, for each value of the bits."""
        columns: list[list[Prefix]] = [[] for _ in range(1 << self.width)]
        for prefix in prefixes:
            for column in self.columns(prefix):
                columns[column].append(prefix)
        return [tuple(column) for column in columns]

    def cost(self, prefixes: Iterable[Prefix], known: int) -> float:
        """Return about how many prefixes remain to be tried after a row in which each is in all its columns.

        Args:
            prefixes: The prefixes that are to be told apart.
            known: Bits of the word that are known already, and tell nothing more.
        """
        new = self.bits & ~known
        few = new.bit_count() - 1
        remaining, columns = 0.0, Tally[int]()
        for value, mask, _ in prefixes:
            fixed = mask & new
            count = fixed.bit_count()
            remaining += 0.5**count
            if count >= few:
                columns[value & fixed] += 1
        return self._weighed(remaining, columns)

    def cost_of_fixed(self, prefixes: Iterable[Prefix]) -> float:
        """Return the same for a row of those prefixes only that leave no bit open; the others remain."""
        columns, remaining, bits = Tally[int](), 0, self.bits
        for value, mask, _ in prefixes:
            if mask & bits == bits:
                columns[value & bits] += 1
            else:
                remaining += 1
        if len(columns) < 2:
            return float("inf")
        return self._weighed(remaining + columns.total() / (1 << self.width), columns)

    def _weighed(self, remaining: float, columns: Tally[int]) -> float:
        most = max(columns.values(), default=0)
        return remaining + most / _CROWD + (1 << self.width) / _MANY_COLUMNS


BYTES = tuple(Window(shift, _BYTE) for shift in range(0, WORD * _BYTE, _BYTE))
"""The bytes of the word."""
WINDOWS = tuple(Window(byte.shift + shift, width) for byte in BYTES for shift, width in ((0, _BYTE), *_PARTS))
"""The bytes of the word, and parts of them."""
