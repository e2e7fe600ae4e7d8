"""The order in which the matcher scans a payload. Built once per rule set, when it is loaded.

The transport of a packet decides which rules can match it. If the payload looks like HTTP, rules see
its parts as well. Each text is first scanned with a cheap database, and with others only if needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType

from sensor.model import Rule
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.linear import LinearDecider
from sensor.rules.engine.proof import UNLIMITED, Finder
from sensor.rules.engine.scan import Decider, MatchEnds, Screen, Trees
from sensor.rules.engine.spans import SpanFinder
from sensor.rules.engine.view import Part
from sensor.rules.regex.lowering import fits
from sensor.rules.regex.tree import Bytes, Node, Position, is_anchored, without

_ENCODING = Bytes(frozenset(b"%+"))
ENCODED = 1 << 16
"""The bit that a screen sets for a text that percent-decoding may change; above all deciders' bits."""

_PARTS: tuple[Part, ...] = ("total", "head", "body")
_EDGES = {
    "total": frozenset[Position](),
    "head": frozenset((Position.END, Position.LINE_END)),
    "body": frozenset((Position.START,)),
}
"""The edges of a part that are not edges of the whole payload; only a blank line separates the parts."""


class Transport:
    """The deciders and stages for packets of one transport protocol."""

    def __init__(self, rules: Mapping[int, Rule], http: HttpReading, deciders: Deciders) -> None:
        def parts_of(rules: Mapping[int, Rule]) -> list[tuple[Part, list[int]]]:
            return [
                (part, [index for index, rule in rules.items() if rule.is_http and rule.part == part])
                for part in _PARTS
            ]

        plain = [index for index, rule in rules.items() if not rule.is_http]
        self._plain = plain
        self.plain = deciders.decider(plain)
        self.linear: LinearDecider | None = None
        """Decides the plain rules that Hyperscan misses; None if there are none."""
        plain_in_http = [index for index in plain if deciders.fits(index, http)]
        self.decoded = Stage(
            parts_of({index: rule for index, rule in rules.items() if rule.decode}), deciders
        )
        encoded: dict[Node, int] = {_ENCODING: ENCODED} if self.decoded.deciders else {}
        self.http = Stage([("total", plain_in_http), *parts_of(rules)], deciders, encoded)
        self.first = (self.plain, self.http.screen.fast_patterns)
        """The database that scans every payload first, by whether the payload looks like HTTP."""
        self.searches_more = (False, False)
        """True if the search goes on when ``first`` finds nothing, by whether it looks like HTTP."""

    def finders(self) -> Iterator[tuple[int, Finder]]:
        """Yield each rule's index with a finder for each database that must find it."""
        for index in self._plain:
            yield index, partial(_decides, self.plain, index)
        yield from self.http.finders()
        yield from self.decoded.finders()

    def use_re2(self, span_finders: Mapping[int, SpanFinder]) -> None:
        """Decide these rules with RE2 as well."""
        chosen = {index: span_finders[index] for index in self._plain if index in span_finders}
        if chosen:
            self.linear = LinearDecider(chosen)
        self.http.use_re2(span_finders)
        self.decoded.use_re2(span_finders)
        self.searches_more = (bool(self.linear), bool(self.http.screen.always))


class Stage:
    """A screen and the deciders it calls for, each with the part of the payload it scans."""

    def __init__(
        self,
        groups: Iterable[tuple[Part, list[int]]],
        deciders: Deciders,
        extra: Mapping[Node, int] = MappingProxyType({}),
    ) -> None:
        self._groups = [(part, rules) for part, rules in groups if rules]
        self.deciders: list[tuple[int, Part, Decider | LinearDecider]] = [
            (1 << bit, part, deciders.decider(rules)) for bit, (part, rules) in enumerate(self._groups)
        ]
        self.screen = deciders.screen(self._groups, extra)

    def finders(self) -> Iterator[tuple[int, Finder]]:
        """Yield each rule's index with a finder for its screen and one for its decider."""
        for (bit, _, decider), (_, rules) in zip(self.deciders, self._groups, strict=True):
            for index in rules:
                yield index, partial(_calls_for, self.screen, bit)
                yield index, partial(_decides, decider, index)

    def use_re2(self, span_finders: Mapping[int, SpanFinder]) -> None:
        """Decide these rules with RE2 as well, whatever the screen finds."""
        for part, rules in self._groups:
            chosen = {index: span_finders[index] for index in rules if index in span_finders}
            if chosen:
                bit = 1 << len(self.deciders)
                self.deciders.append((bit, part, LinearDecider(chosen)))
                self.screen.always |= bit


def _decides(decider: Decider | LinearDecider, index: int, text: bytes) -> bool:
    ends: MatchEnds = {}
    decider.add_matches(text, ends, UNLIMITED)
    return index in ends


def _calls_for(screen: Screen, bit: int, text: bytes) -> bool:
    return bool(screen.needs(text, UNLIMITED) & bit)


class Deciders:
    """Makes deciders and screens; deciders of the same rules are shared."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._deciders: dict[tuple[int, ...], Decider] = {}
        self._screens: list[Screen] = []

    def fits(self, rule: int, http: HttpReading) -> bool:
        """Return True if a rule may match a payload that looks like HTTP."""
        tree = self._trees[rule]
        return not is_anchored(tree) or fits(tree, http.beginnings)

    def decider(self, rules: list[int]) -> Decider:
        """Return the decider of these rules."""
        key = tuple(rules)
        if key not in self._deciders:
            self._deciders[key] = Decider((index, self._trees[index]) for index in rules)
        return self._deciders[key]

    def screen(self, groups: Iterable[tuple[Part, list[int]]], extra: Mapping[Node, int]) -> Screen:
        """Return a screen for the deciders of these groups; ``extra`` is passed on to `Screen`.

        The screen scans the whole payload, in which the edges of a part are not visible.
        """
        trees = [
            {index: without(self._trees[index], _EDGES[part]) for index in rules} for part, rules in groups
        ]
        self._screens.append(Screen(trees, extra))
        return self._screens[-1]

    def compile(self) -> int:
        """Compile all databases, on all processors, and return their size in bytes."""
        made = [*self._deciders.values(), *(screen.fast_patterns for screen in self._screens)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return sum(pool.map(Decider.compile, made))
