"""Decisions about the first bytes of payloads, as rows and prefixes through which the kernel walks.

Used when rules are loaded; ``bpf/plan.h`` is what walks. Decisions are exact as long as they are short
enough, and the tables large enough; `merged` prefixes let more payloads pass, never fewer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensor import abi
from sensor.rules.prefilter.merging import merged
from sensor.rules.prefilter.prefix import Prefix
from sensor.rules.prefilter.window import BYTES, WINDOWS, Window

_MOST_STATES = 1 << 20
_MOST_PREFIXES = 1 << 17
"""Limits of the tables: 4 MiB of states, and what a state can address; 3 MiB of prefixes."""
_FEW_OPEN_BITS = 1
"""A prefix that leaves more bits of a window open is tried after those that leave fewer."""
_MOST_COLUMNS = 1 << 20
"""Columns that are filled at most for one row."""
_FEW_STEPS = 12
"""With so few steps left, prefixes are tried one after the other."""

_Prefixes = tuple[Prefix, ...]


class TableFullError(Exception):
    """The decisions need more states or prefixes than a table can hold."""


class Decisions:
    """Tables that share what they have in common, filled with one decision after another."""

    def __init__(self, copies: int) -> None:
        """Begin with empty tables.

        Args:
            copies: Limit of the number of prefixes in further columns. With more of them, decisions are
                shorter, and tables larger.
        """
        self._rows: list[int] = []
        self._prefixes: list[tuple[int, int, int, int]] = []
        self._copies_left = copies
        self._steps: dict[int, int] = dict.fromkeys(abi.Counter, 0)
        """The most steps from a state to an outcome."""
        self._known_rows: dict[tuple[Window, tuple[int, ...]], int] = {}
        self._known_prefixes: dict[tuple[Prefix, int], int] = {}
        self._known: dict[tuple[_Prefixes, int], int] = {}
        self.lost = 0
        """Number of prefixes that were given up for others that let more payloads pass."""

    @property
    def rows(self) -> NDArray[np.uint32]:
        """The table of rows."""
        return np.array(self._rows, np.uint32)

    @property
    def prefixes(self) -> NDArray[np.void]:
        """The table of prefixes, `abi.PLAN_PREFIX`."""
        return np.array(self._prefixes, abi.PLAN_PREFIX)

    def steps(self, state: int) -> int:
        """Return the most steps that a decision takes from a state on."""
        return self._steps[state]

    def add(self, prefixes: Sequence[Prefix], otherwise: int, most_steps: int, *, is_frequent: bool) -> int:
        """Add a decision, and return its first state.

        Args:
            prefixes: Payloads with one of them are submitted.
            otherwise: The state in which it goes on with all others.
            most_steps: Limit of its steps, with those that follow ``otherwise``.
            is_frequent: True if its first row shall select by a whole byte, so that most payloads end there.

        Raises:
            TableFullError: A table is full.
        """
        every = tuple(prefixes)
        if is_frequent and len(every) > 1 and self._steps[otherwise] + _FEW_STEPS <= most_steps:
            row = self._row_of_copies(BYTES, every, otherwise, most_steps, 0)
            if row is not None:
                return row
        return self._add(every, otherwise, most_steps, 0)

    def _add(self, prefixes: _Prefixes, otherwise: int, most_steps: int, known_bits: int) -> int:
        if not prefixes:
            return otherwise
        state = self._known.get((prefixes, otherwise))
        if state is None or self._steps[state] > most_steps:
            state = self._add_new(prefixes, otherwise, most_steps, known_bits)
            self._known[prefixes, otherwise] = state
        return state

    def _add_new(self, prefixes: _Prefixes, otherwise: int, most_steps: int, known_bits: int) -> int:
        if len(prefixes) > 1 and most_steps - self._steps[otherwise] > _FEW_STEPS:
            arguments = prefixes, otherwise, most_steps, known_bits
            row = self._row_of_copies(WINDOWS, *arguments)
            if row is None:
                row = self._row_of_fixed(*arguments)
            if row is not None:
                return row
        return self._one_by_one(prefixes, otherwise, most_steps)

    def _row_of_copies(
        self,
        windows: Sequence[Window],
        prefixes: _Prefixes,
        otherwise: int,
        most_steps: int,
        known_bits: int,
    ) -> int | None:
        """Add a row with each prefix in all its columns; None if no row helps or takes too many copies."""
        costs = {window: window.cost(prefixes, known_bits) for window in windows if window.bits & ~known_bits}
        if not costs:
            return None
        window = min(costs, key=costs.__getitem__)
        if sum(1 << window.open_bits(prefix) for prefix in prefixes) > _MOST_COLUMNS:
            return None
        columns = window.spread(prefixes)
        copies = sum(map(len, set(columns))) - len(prefixes)
        if copies > self._copies_left or max(map(len, columns)) == len(prefixes) == min(map(len, columns)):
            return None
        self._copies_left -= max(copies, 0)
        known_bits |= window.bits
        states = []
        for column in columns:
            few = tuple(one for one in column if window.open_bits(one) <= _FEW_OPEN_BITS)
            rest = tuple(one for one in column if window.open_bits(one) > _FEW_OPEN_BITS)
            then = self._add(rest, otherwise, self._room(most_steps, otherwise, few), known_bits)
            states.append(self._add(few, then, most_steps - 1, known_bits))
        return self._row(window, tuple(states))

    def _row_of_fixed(
        self, prefixes: _Prefixes, otherwise: int, most_steps: int, known_bits: int
    ) -> int | None:
        """Add a row of the prefixes that are in one column, and then the others; None if no row helps."""
        costs = {window: window.cost_of_fixed(prefixes) for window in WINDOWS}
        window = min(costs, key=costs.__getitem__)
        if costs[window] == float("inf"):
            return None
        fixed = tuple(one for one in prefixes if not window.open_bits(one))
        others = tuple(one for one in prefixes if window.open_bits(one))
        columns = window.spread(fixed)
        room = self._room(most_steps, otherwise, max(columns, key=len))
        then = self._add(others, otherwise, room, known_bits)
        known_bits |= window.bits
        states = tuple(self._add(column, then, most_steps - 1, known_bits) for column in columns)
        return self._row(window, states)

    def _one_by_one(self, prefixes: _Prefixes, otherwise: int, most_steps: int) -> int:
        tried = merged(prefixes, most_steps - self._steps[otherwise])
        self.lost += len(prefixes) - len(tried)
        state = otherwise
        for prefix in reversed(tried.prefixes):
            state = self._prefix(prefix, state)
        return state

    def _room(self, most_steps: int, otherwise: int, first: _Prefixes) -> int:
        """Return the limit of steps for what is tried after a row and after the ``first`` prefixes."""
        left = most_steps - 1 - self._steps[otherwise]
        return most_steps - 1 - min(2 * len(first).bit_length(), left // 2)

    def _row(self, window: Window, states: tuple[int, ...]) -> int:
        """Return the state of a row; its columns are the values of the window's bits."""
        if len(set(states)) == 1:
            return states[0]
        known = self._known_rows.get((window, states))
        if known is not None:
            return known
        first = len(self._rows)
        missing = -len(states) % abi.STATE_ROW_UNIT
        if first + len(states) + missing > _MOST_STATES:
            raise TableFullError
        self._rows += [*states, *[0] * missing]
        state = (
            abi.STATE_ROW
            | window.shift
            | (1 << window.width) - 1 << abi.STATE_MASK_SHIFT
            | first // abi.STATE_ROW_UNIT << abi.STATE_START_SHIFT
        )
        self._steps[state] = 1 + max(self._steps[one] for one in states)
        self._known_rows[window, states] = state
        return state

    def _prefix(self, prefix: Prefix, otherwise: int) -> int:
        """Return the state in which a prefix is compared."""
        if prefix.is_anything and prefix.length <= 1:  # what is judged has payload
            return abi.Counter.SUBMITTED
        known = self._known_prefixes.get((prefix, otherwise))
        if known is not None:
            return known
        if len(self._prefixes) == _MOST_PREFIXES:
            raise TableFullError
        state = abi.STATE_PREFIX | len(self._prefixes)
        self._prefixes.append((*prefix, otherwise))
        self._steps[state] = 1 + self._steps[otherwise]
        self._known_prefixes[prefix, otherwise] = state
        return state
