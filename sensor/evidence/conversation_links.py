"""Puts rows that were built from files back into conversations. Runs where the index is written.

A file of context says that its frames were kept because of a match, but not because of which one. It is
found again: the first match in the same flow that opens a conversation. This is exact if a flow has one
conversation. Of several within seconds, frames between them may be given to the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from sensor.evidence.day_writer import DayWriter
from sensor.evidence.index_schema import Day, day_of
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.link_table import WAITING, AddressPair, Link, LinkRow
from sensor.evidence.open_conversation import REACH_NS, SILENCE_NS
from sensor.model import Context, Role, Rule
from sensor.rules.context import wants_context

_AT_ONCE = 5000
"""Rows for which conversations are looked for at once."""
_REACH_US, _SILENCE_US = REACH_NS // 1000, SILENCE_NS // 1000
_NEIGHBOUR_DAYS = tuple(timedelta(days) for days in (-1, 0, 1))


class LinkRules(NamedTuple):
    """The settings that conversations were kept with, as far as is known: the files do not say it."""

    opens: Callable[[Rule], bool]
    """Returns True for a rule whose matches open conversations."""
    seconds: float
    """How long a conversation goes on after its first match."""


def link_rules(setting: Context, seconds: float) -> LinkRules:
    """Return the rules of a sensor with these settings; if it keeps no context now, it did earlier."""
    setting = "threat" if setting == "off" else setting
    return LinkRules(lambda rule: bool(wants_context([rule], setting)[0]), seconds)


def link(index: IndexWriter, rules: LinkRules) -> Iterator[None]:
    """Find the conversations of all rows that still wait for one; yield between small parts of the work.

    Ends early if a database cannot be written; what is left is found by the next call.
    """
    for day in index.days():
        while True:
            by_pair: dict[AddressPair, list[int]] = {}
            for rows in index.change(day, lambda database: database.links.waiting(_AT_ONCE)):
                for row in rows:
                    by_pair.setdefault(row.pair, []).append(row.time_us)
            if not by_pair:
                break
            for pair, times_us in by_pair.items():
                if not _link_pair(index, rules, pair, min(times_us), max(times_us)):
                    return
                yield


def _link_pair(index: IndexWriter, rules: LinkRules, pair: AddressPair, first_us: int, last_us: int) -> bool:
    """Link the rows between two addresses that wait in a stretch of time; return True if that was written."""
    low_us, high_us = first_us - _REACH_US, last_us + _REACH_US
    rows: list[LinkRow] = []
    used: set[int] = set()
    opening: set[tuple[Day, int]] = set()

    def read(database: DayWriter) -> tuple[list[LinkRow], set[int], set[int]]:
        found = database.links.between(pair, low_us, high_us)
        numbers = {number for row in found for number in row.rules}
        opening = {number for number in numbers if rules.opens(database.links.rule(number))}
        return found, database.links.numbers(low_us, high_us + _REACH_US), opening

    known = set(index.days())
    for shift in _NEIGHBOUR_DAYS:
        day = Day(day_of(first_us).date + shift)
        if day in known:
            for found, in_use, own in index.change(day, read):
                rows += found
                used |= in_use
                opening |= {(day, number) for number in own}
    numbering = _Numbering(rules.seconds, used)
    numbered = list(
        numbering.of(
            sorted(rows), lambda row: any((day_of(row.time_us), number) in opening for number in row.rules)
        )
    )
    numbers = {number for row, number in numbered if row.is_context or row.conversation}
    links: dict[Day, list[Link]] = {}
    for row, found_number in numbered:
        number = found_number if found_number in numbers else 0  # a match alone is no conversation
        # Rows that wait at other times are linked with all that is around them.
        is_due = first_us <= row.time_us <= last_us if row.conversation == WAITING else bool(number)
        if is_due and (row.conversation != number or row.conversation == WAITING):
            links.setdefault(day_of(row.time_us), []).append(_link_of(row, number))
    return bool(links) and all(index.change(day, _write, own) for day, own in links.items())


def _link_of(row: LinkRow, number: int) -> Link:
    role = row.role
    if row.is_context:
        role = Role.AFTER if number and row.time_us > number else Role.BEFORE
    return Link(number or None, role, row.id_)


def _write(database: DayWriter, links: list[Link]) -> None:
    database.links.link(links)


@dataclass
class _Numbering:
    """Gives conversations to the rows between two addresses."""

    seconds: float
    used: set[int]
    """Numbers that other conversations have."""
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Times of the first and of the last packet of each conversation."""

    def of(self, rows: list[LinkRow], opens: Callable[[LinkRow], bool]) -> Iterator[tuple[LinkRow, int]]:
        """Yield rows that are in order of time with the number of their conversation; 0: none."""
        flows: dict[tuple[int, int], list[LinkRow]] = {}
        for row in rows:
            if not row.is_fragment:
                flows.setdefault(row.ports, []).append(row)
        for own in flows.values():
            for row, number in self._of_flow(own, opens):
                if number:
                    first, last = self.spans.get(number, (row.time_us, row.time_us))
                    self.spans[number] = min(first, row.time_us), max(last, row.time_us)
                yield row, number
        yield from ((row, self._nearest(row.time_us)) for row in rows if row.is_fragment and row.is_context)

    def _of_flow(
        self, rows: list[LinkRow], opens: Callable[[LinkRow], bool]
    ) -> Iterator[tuple[LinkRow, int]]:
        has_opener = any(map(opens, rows))
        early: list[LinkRow] = []
        number = until_us = last_us = 0
        for row in rows:
            time_us = row.time_us
            is_over = not number or time_us > min(until_us, last_us + _SILENCE_US)
            is_opener = bool(row.rules) and (not has_opener or opens(row))
            if row.conversation or (is_over and is_opener):
                if not row.conversation:
                    number = self._new_number(time_us)
                    until_us = time_us + int(self.seconds * 1e6)
                elif row.conversation != number:
                    number = row.conversation
                    until_us = number + int(self.seconds * 1e6)
                yield from ((one, number if number - one.time_us < _REACH_US else 0) for one in early)
                early.clear()
            elif is_over:
                number = 0
            if number or not row.is_context:
                yield row, number if row.is_context or row.rules else 0
                last_us = time_us
            else:
                early.append(row)
        yield from ((one, 0) for one in early)

    def _new_number(self, time_us: int) -> int:
        number = max(time_us, 1)
        while number in self.used:
            number += 1
        self.used.add(number)
        return number

    def _nearest(self, time_us: int) -> int:
        """Return the conversation whose packets are nearest to a time; 0 if there is none."""
        distances = (
            (max(first - time_us, time_us - last, 0), number) for number, (first, last) in self.spans.items()
        )
        distance_us, number = min(distances, default=(_REACH_US, 0))
        return number if distance_us < _REACH_US else 0
