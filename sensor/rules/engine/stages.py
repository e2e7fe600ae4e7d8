"""What the matcher asks, in which order: built once for each set of rules, when they are loaded.

A packet's transport decides which rules it can hit, and whether it looks like HTTP which texts
they see. Each text meets a first database that is cheap, and more only where that says so.
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
from sensor.rules.engine.proof import ENDLESS, Finds
from sensor.rules.engine.scan import Decider, Hits, Screen, Trees
from sensor.rules.engine.spans import SpanFinder
from sensor.rules.engine.view import Part
from sensor.rules.regex.lowering import fits
from sensor.rules.regex.tree import Bytes, Node, Position, is_anchored, without

_ENCODING = Bytes(frozenset(b"%+"))
ENCODED = 1 << 16
"""What a screen says of a text that may read differently percent-decoded: a bit above all deciders'."""

_PARTS: tuple[Part, ...] = ("total", "head", "body")
_EDGES = {
    "total": frozenset[Position](),
    "head": frozenset((Position.END, Position.LINE_END)),
    "body": frozenset((Position.START,)),
}
"""The edges of a part that are none of the whole payload; a blank line is all that lies between parts."""


class Transport:
    """What rules of one transport protocol look for, by what a payload is."""

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
        """For plain rules that Hyperscan misses."""
        plain_in_http = [index for index in plain if deciders.fits(index, http)]
        self.decoded = Stage(
            parts_of({index: rule for index, rule in rules.items() if rule.decode}), deciders
        )
        encoded: dict[Node, int] = {_ENCODING: ENCODED} if self.decoded.deciders else {}
        self.http = Stage([("total", plain_in_http), *parts_of(rules)], deciders, encoded)
        self.first = (self.plain, self.http.screen.signs)
        """What every payload meets first, by whether it looks like HTTP."""
        self.asks_more = (False, False)
        """Whether one is looked at further that nothing was found in, by the same."""

    def finds(self) -> Iterator[tuple[int, Finds]]:
        """Yield each rule with what is to find it, once for each database."""
        for index in self._plain:
            yield index, partial(_decides, self.plain, index)
        yield from self.http.finds()
        yield from self.decoded.finds()

    def leave(self, captures: Mapping[int, SpanFinder]) -> None:
        """Leave these rules to RE2."""
        chosen = {index: captures[index] for index in self._plain if index in captures}
        if chosen:
            self.linear = LinearDecider(chosen)
        self.http.leave(captures)
        self.decoded.leave(captures)
        self.asks_more = (bool(self.linear), bool(self.http.screen.always))


class Stage:
    """A screen, and the deciders it calls for, each with the part of the payload it looks at."""

    def __init__(
        self,
        groups: Iterable[tuple[Part, list[int]]],
        deciders: Deciders,
        further: Mapping[Node, int] = MappingProxyType({}),
    ) -> None:
        self._groups = [(part, rules) for part, rules in groups if rules]
        self.deciders: list[tuple[int, Part, Decider | LinearDecider]] = [
            (1 << bit, part, deciders.decider(rules)) for bit, (part, rules) in enumerate(self._groups)
        ]
        self.screen = deciders.screen(self._groups, further)

    def finds(self) -> Iterator[tuple[int, Finds]]:
        """Yield each rule with its screen and with its decider, either of which is to find it."""
        for (bit, _, decider), (_, rules) in zip(self.deciders, self._groups, strict=True):
            for index in rules:
                yield index, partial(_calls_for, self.screen, bit)
                yield index, partial(_decides, decider, index)

    def leave(self, captures: Mapping[int, SpanFinder]) -> None:
        """Leave these rules to RE2, whatever the screen says."""
        for part, rules in self._groups:
            chosen = {index: captures[index] for index in rules if index in captures}
            if chosen:
                bit = 1 << len(self.deciders)
                self.deciders.append((bit, part, LinearDecider(chosen)))
                self.screen.always |= bit


def _decides(decider: Decider | LinearDecider, index: int, text: bytes) -> bool:
    hits: Hits = {}
    decider.add_hits(text, hits, ENDLESS)
    return index in hits


def _calls_for(screen: Screen, bit: int, text: bytes) -> bool:
    return bool(screen.needs(text, ENDLESS) & bit)


class Deciders:
    """Makes deciders and screens; those of the same rules are made once."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._deciders: dict[tuple[int, ...], Decider] = {}
        self._screens: list[Screen] = []

    def fits(self, rule: int, http: HttpReading) -> bool:
        """Whether a rule may hit a payload that looks like HTTP."""
        tree = self._trees[rule]
        return not is_anchored(tree) or fits(tree, http.beginnings)

    def decider(self, rules: list[int]) -> Decider:
        """Return the decider of these rules."""
        key = tuple(rules)
        if key not in self._deciders:
            self._deciders[key] = Decider((index, self._trees[index]) for index in rules)
        return self._deciders[key]

    def screen(self, groups: Iterable[tuple[Part, list[int]]], further: Mapping[Node, int]) -> Screen:
        """Return the screen in front of the deciders of these groups, with `Screen`'s ``further`` bits.

        It sees the whole payload, where a part of it does not start or end.
        """
        trees = [
            {index: without(self._trees[index], _EDGES[part]) for index in rules} for part, rules in groups
        ]
        self._screens.append(Screen(trees, further))
        return self._screens[-1]

    def compile(self) -> int:
        """Compile all of them, on as many processors as there are; return their size in bytes."""
        made = [*self._deciders.values(), *(screen.signs for screen in self._screens)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return sum(pool.map(Decider.compile, made))
