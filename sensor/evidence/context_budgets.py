"""Budgets of context: no source and no rule makes the sensor keep conversation after conversation.

Runs where conversations are opened, in the supervisor and in ``sensor read``. Nearly all matches are those of
scans, which would otherwise buy the disk with their conversations.
"""

from __future__ import annotations

import secrets
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Cause = Literal["source", "rule", "memory"]
"""The reason why a conversation is not kept: the budget of its source or rule, or too many are open."""
CAUSES: tuple[Cause, ...] = get_args(Cause)

SOURCE_PER_MINUTE = 30
"""Conversations that one source, an IPv4 address or an IPv6 /64, may open at once, and again per minute."""
RULE_PER_MINUTE = 1200
"""Conversations that the matches of one rule may open at once, and again per minute."""

_NS_PER_MINUTE = 60_000_000_000
_COLUMNS = 1 << 14
_SHIFT = np.uint64(64 - 14)


class ContextBudgets:
    """Counts the conversations that sources and rules open. Time is that of the frames."""

    def __init__(
        self, source_per_minute: int = SOURCE_PER_MINUTE, rule_per_minute: int = RULE_PER_MINUTE
    ) -> None:
        self._sources, self._rules = _Meter(source_per_minute), _Meter(rule_per_minute)

    def admit(
        self,
        sources: NDArray[np.uint64],
        opener: NDArray[np.intp],
        rules: NDArray[np.int64],
        now_ns: int,
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Decide about n matches that would open conversations, and charge those that may.

        Args:
            sources: The source of each, from `sources_of`.
            opener: For each rule that asks for it: the position of the match, ascending.
            rules: Those rules, by id; shape (len(opener),).
            now_ns: The time.

        Returns:
            True for each match whose source has no room, and for each of the others none of whose rules has.
        """
        self._sources.age(now_ns)
        self._rules.age(now_ns)
        source_places = self._sources.places(sources)
        has_source_room = self._sources.has_room(source_places)
        is_left = has_source_room[opener]
        rule_places = self._rules.places(rules[is_left].astype(np.uint64))
        has_rule_room = np.zeros(len(sources), np.bool_)
        has_rule_room[opener[is_left][self._rules.has_room(rule_places)]] = True
        is_admitted = has_source_room & has_rule_room
        self._sources.charge(source_places[:, is_admitted])
        self._rules.charge(rule_places[:, is_admitted[opener[is_left]]])
        return ~has_source_room, has_source_room & ~has_rule_room


def sources_of(items: NDArray[np.void]) -> NDArray[np.uint64]:
    """Return a number for the source of each item: its IPv4 address, or IPv6 /64."""
    networks = np.ascontiguousarray(items["source"][:, :8]).view(np.uint64)[:, 0]
    return np.asarray(networks ^ items["ip_version"].astype(np.uint64) << np.uint64(56))


class _Meter:
    """Leaky buckets in a table of fixed size; a key has two places, and the emptier one counts.

    An attacker does not know the places (count-min sketch, Cormode and Muthukrishnan 2005).
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._levels = np.zeros((2, _COLUMNS))
        self._factors = np.array([[secrets.randbits(64) | 1] for _ in range(2)], np.uint64)
        self._now_ns: int | None = None

    def age(self, now_ns: int) -> None:
        """Let the buckets leak until now. A clock that was set back by more than a minute empties them."""
        passed_ns = 0 if self._now_ns is None else now_ns - self._now_ns
        if passed_ns < -_NS_PER_MINUTE:
            self._levels[:] = 0
        elif passed_ns > 0:
            leaked = self._per_minute * passed_ns / _NS_PER_MINUTE
            np.maximum(self._levels - leaked, 0, out=self._levels)
        if self._now_ns is None or passed_ns > 0 or passed_ns < -_NS_PER_MINUTE:
            self._now_ns = now_ns

    def places(self, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Return the places of keys, shape (2, n)."""
        mixed = keys * self._factors
        mixed ^= mixed >> np.uint64(29)
        return (mixed * self._factors >> _SHIFT).astype(np.intp)

    def has_room(self, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return True for each key that has room, if those before it in the array take theirs."""
        rows = (
            row[at] + _earlier(at) + 1 <= self._per_minute
            for row, at in zip(self._levels, places, strict=True)
        )
        first, second = rows
        return np.asarray(first | second)

    def charge(self, places: NDArray[np.intp]) -> None:
        """Add one for each key."""
        for row, at in zip(self._levels, places, strict=True):
            row += np.bincount(at, minlength=_COLUMNS)


def _earlier(values: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each value how many equal ones are before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_first = np.ones(len(values), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    positions = np.arange(len(values))
    earlier = np.empty(len(values), np.intp)
    earlier[order] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    return earlier
