"""The order in which the matcher scans a payload. Built once per rule set, when it is loaded.

The transport of a packet decides which rules can match it. If the payload looks like HTTP, rules see
its parts as well. Each text is first scanned with a cheap database, and with others only if needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

from sensor.model import Rule
from sensor.native.batch_matcher import StagePlan, TransportPlan
from sensor.rules.engine.budget import Budget
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.linear import LinearDecider
from sensor.rules.engine.proof import Finder, Scanners
from sensor.rules.engine.scan import Decider, Screen, Screened, Trees
from sensor.rules.engine.spans import SpanFinder
from sensor.rules.engine.view import DecodedViews, Part, Views
from sensor.rules.regex.lowering import fits
from sensor.rules.regex.tree import Bytes, Node, Position, is_anchored, without

_ENCODING = Bytes(frozenset(b"%+"))
ENCODED = 1 << 16
"""The bit that a screen sets for a text that percent-decoding may change; above all deciders' bits."""
_WHOLE_ID = 0xFFFFFFFF

PARTS: tuple[Part, ...] = ("total", "head", "body")
"""In the order of ``enum part`` in ``match.c``."""
_EDGES = {
    "total": frozenset[Position](),
    "head": frozenset((Position.END, Position.LINE_END)),
    "body": frozenset((Position.START,)),
}
"""The edges of a part that are not edges of the whole payload; only a blank line separates the parts."""


class Transport:
    """The deciders and stages for packets of one transport protocol."""

    def __init__(self, plain: Decider, http: Stage, decoded: Stage) -> None:
        self.plain = plain
        """Decides which rules match a payload that does not look like HTTP."""
        self.linear: LinearDecider | None = None
        """Decides the plain rules that Hyperscan misses; None if there are none."""
        self.http = http
        """For payloads that look like HTTP."""
        self.decoded = decoded
        """For the same, percent-decoded."""
        self.searches_more = (False, False)
        """True if RE2 decides some rules, by whether the payload looks like HTTP."""

    @classmethod
    def of(cls, rules: Mapping[int, Rule], http: HttpReading, deciders: Deciders) -> Transport:
        """Return a transport for rules by their index; ``deciders`` compiles its databases."""

        def parts_of(rules: Mapping[int, Rule]) -> list[tuple[Part, list[int]]]:
            return [
                (part, [index for index, rule in rules.items() if rule.is_http and rule.part == part])
                for part in PARTS
            ]

        plain = [index for index, rule in rules.items() if not rule.is_http]
        plain_in_http = [index for index in plain if deciders.fits(index, http)]
        decoded = Stage.of(parts_of({index: rule for index, rule in rules.items() if rule.decode}), deciders)
        encoded: dict[Node, int] = {_ENCODING: ENCODED} if decoded.deciders else {}
        raw = Stage.of([("total", plain_in_http), *parts_of(rules)], deciders, encoded)
        return cls(deciders.decider(plain), raw, decoded)

    @property
    def plan(self) -> TransportPlan:
        """The databases for `BatchMatcher`; rules that RE2 decides are not among them."""
        return TransportPlan(self.plain.databases, self.http.plan, self.decoded.plan)

    def finders(self, scanners: Scanners) -> Iterator[tuple[int, Finder]]:
        """Yield each rule's index with a finder for each database that must find it."""
        for index in self.plain.ids:
            yield index, scanners.finder(self.plain, index, _WHOLE_ID)
        yield from self.http.finders(scanners)
        yield from self.decoded.finders(scanners)

    def missed_matches(self, text: bytes, budget: Budget, *, is_http: bool) -> set[int]:
        """Return the rules that Hyperscan misses and that match a payload according to RE2."""
        found: set[int] = set()
        if not is_http:
            if self.linear:
                self.linear.add_matches(text, found, budget)
            return found
        views = Views(text)
        _search(self.http, views, found, budget)
        for _ in range(2 if self.decoded.linear else 0):
            if budget.is_spent():
                break
            views = DecodedViews(views)
            if views["total"].text == text:
                break
            text = views["total"].text
            _search(self.decoded, views, found, budget)
        return found

    def use_re2(self, span_finders: Mapping[int, SpanFinder]) -> None:
        """Decide these rules with RE2 as well."""
        chosen = {index: span_finders[index] for index in self.plain.ids if index in span_finders}
        if chosen:
            self.linear = LinearDecider(chosen)
        self.http.use_re2(span_finders)
        self.decoded.use_re2(span_finders)
        self.searches_more = (bool(self.linear), bool(self.http.linear))


class Stage:
    """A screen and the deciders it calls for, each with the part of the payload it scans."""

    def __init__(self, screen: Screen, deciders: Sequence[tuple[int, Part, Decider]]) -> None:
        self.screen = screen
        self.deciders = deciders
        """The bit with which the screen calls for the decider, and the part that it scans."""
        self.linear: list[tuple[Part, LinearDecider]] = []
        """For the rules that Hyperscan misses, which search every text."""

    @classmethod
    def of(
        cls,
        groups: Iterable[tuple[Part, list[int]]],
        deciders: Deciders,
        extra: Mapping[Node, int] = MappingProxyType({}),
    ) -> Stage:
        """Return the stage for these groups of rules; ``deciders`` compiles its databases."""
        filled = [(part, rules) for part, rules in groups if rules]
        called = [(1 << bit, part, deciders.decider(rules)) for bit, (part, rules) in enumerate(filled)]
        return cls(deciders.screen(filled, extra), called)

    @property
    def plan(self) -> StagePlan:
        """The databases for `BatchMatcher`."""
        called = [(bit, PARTS.index(part), decider.databases) for bit, part, decider in self.deciders]
        return StagePlan(self.screen.fast_patterns.databases, called)

    def finders(self, scanners: Scanners) -> Iterator[tuple[int, Finder]]:
        """Yield each rule's index with a finder for its screen and one for its decider."""
        for bit, _, decider in self.deciders:
            for index in decider.ids:
                yield index, scanners.finder(self.screen.fast_patterns, bit, bit)
                yield index, scanners.finder(decider, index, _WHOLE_ID)

    def use_re2(self, span_finders: Mapping[int, SpanFinder]) -> None:
        """Decide these rules with RE2 as well, whatever the screen finds."""
        for _, part, decider in self.deciders:
            chosen = {index: span_finders[index] for index in decider.ids if index in span_finders}
            if chosen:
                self.linear.append((part, LinearDecider(chosen)))


def _search(stage: Stage, views: Views, found: set[int], budget: Budget) -> None:
    """Add the rules that Hyperscan misses and that match in these views to ``found``."""
    for part, linear in stage.linear:
        linear.add_matches(views[part].text, found, budget)


class Deciders:
    """Makes deciders and screens; those of the same rules are shared."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._deciders: dict[tuple[int, ...], Decider] = {}
        self._screens: dict[tuple[object, ...], Screen] = {}
        self._screened: dict[tuple[Part, int], Screened] = {}

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

    def screen(self, groups: Sequence[tuple[Part, list[int]]], extra: Mapping[Node, int]) -> Screen:
        """Return a screen for the deciders of these groups; ``extra`` is passed on to `Screen`."""
        key = (*((part, tuple(rules)) for part, rules in groups), *extra.items())
        if key not in self._screens:
            screened = [[self._screen_of(part, index) for index in rules] for part, rules in groups]
            self._screens[key] = Screen.of(screened, extra)
        return self._screens[key]

    def _screen_of(self, part: Part, rule: int) -> Screened:
        """Return a rule without the edges of its part, which a screen does not see in the whole payload."""
        if (part, rule) not in self._screened:
            self._screened[part, rule] = Screened.of(without(self._trees[rule], _EDGES[part]))
        return self._screened[part, rule]

    def compile(self) -> int:
        """Compile all databases, on all processors, and return their size in bytes."""
        made = [*self._deciders.values(), *(screen.fast_patterns for screen in self._screens.values())]
        made.sort(key=lambda decider: len(decider.ids), reverse=True)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return sum(pool.map(Decider.compile, made))
