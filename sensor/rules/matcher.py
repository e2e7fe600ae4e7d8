"""Payload to matches: Hyperscan decides, RE2 says where and what group 1 is.

Runs in the capture workers and in ``sensor read``. A matcher belongs to one thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter

from sensor.model import Match, Rule
from sensor.rules.captures import NOWHERE, Captures
from sensor.rules.expression import Expression, expression
from sensor.rules.http import RFC9110, HttpReading
from sensor.rules.linear import LinearDecider
from sensor.rules.lower import fits
from sensor.rules.proof import ENDLESS, Finds, missed
from sensor.rules.regex import Place, is_anchored, without
from sensor.rules.scan import SLICE, Budget, Decider, Hits, Screen, Trees, note
from sensor.rules.view import DecodedViews, Part, View, Views

log = logging.getLogger(__name__)

_TCP, _UDP, _ANY = 6, 17, -1
_PARTS: tuple[Part, ...] = ("total", "head", "body")
_EDGES = {
    "total": frozenset[Place](),
    "head": frozenset((Place.END, Place.LINE_END)),
    "body": frozenset((Place.START,)),
}
"""The edges of a part that are none of the whole payload; a blank line is all that lies between parts."""


class Matcher:
    """All rules, ready to match payloads."""

    def __init__(self, rules: Iterable[Rule], http: HttpReading = RFC9110) -> None:
        """Compile the rules.

        Raises `sensor.rules.regex.RegexError` where one cannot be, `RulesError` where all together
        cannot; `load_rules` lets none of the former pass.
        """
        self.rules = tuple(rules)
        self.http = http
        expressions = [expression(rule.regex) for rule in self.rules]
        self._captures = [one.captures for one in expressions]
        deciders = _Deciders({index: one.tree for index, one in enumerate(expressions)})
        self._transports = {
            protocol: _Transport(
                {index: rule for index, rule in enumerate(self.rules) if rule.protocol in (None, protocol)},
                http,
                deciders,
            )
            for protocol in (_TCP, _UDP, _ANY)
        }
        self._other = self._transports[_ANY]
        self.size_bytes = deciders.compile()
        """Of Hyperscan's databases."""
        self._budget = Budget()
        self.missed = tuple(self.rules[index] for index in self._prove(expressions))
        """Rules that Hyperscan was seen to miss; RE2 decides them."""

    @property
    def cut(self) -> int:
        """Scans broken off for their cost in CPU time, where texts are above `sensor.rules.scan.SLICE`.

        With rules in ``missed``, those of other texts too.
        """
        return self._budget.cut

    def _prove(self, expressions: Sequence[Expression]) -> list[int]:
        """Try every rule before it is used; leave those that the databases miss to RE2, and list them."""
        finds: dict[int, list[Finds]] = {index: [] for index in range(len(expressions))}
        for transport in self._transports.values():
            for index, find in transport.finds():
                finds[index].append(find)
        indices = missed(expressions, finds)
        for index in indices:
            log.warning("rule %d is decided by RE2, Hyperscan misses it", self.rules[index].rule_id)
        for transport in self._transports.values():
            transport.leave({index: self._captures[index] for index in indices})
        return indices

    def match(self, payload: bytes | memoryview, protocol: int, sport: int, dport: int) -> tuple[Match, ...]:
        """Return all matches of one packet's payload, in the order of the rules."""
        return self.search(payload, protocol, sport, dport, is_http=self.http.matches(payload))

    def search(
        self, payload: bytes | memoryview, protocol: int, sport: int, dport: int, is_http: bool
    ) -> tuple[Match, ...]:
        """Do the same for a caller that knows already whether the payload looks like HTTP."""
        text = bytes(payload)
        transport = self._transports.get(protocol, self._other)
        if is_http:
            return self._search_http(transport, text, sport, dport)
        hits: Hits = {}
        if len(text) <= SLICE:  # nearly every packet ends here
            transport.plain.scan(text, note, 0, hits)
            if not hits and not transport.linear:
                return ()
        self._budget.renew()
        if len(text) > SLICE:
            transport.plain.add_hits(text, hits, self._budget)
        if transport.linear:
            transport.linear.add_hits(text, hits, self._budget)
            if not hits:
                return ()
        view = View(text)
        return self._located([(index, view, end) for index, end in hits.items()], sport, dport)

    def _search_http(self, transport: _Transport, text: bytes, sport: int, dport: int) -> tuple[Match, ...]:
        """Look at the parts of an HTTP payload as they are, decoded once, and decoded twice."""
        self._budget.renew()
        needed = transport.http.screen.needs(text, self._budget)
        decodes = transport.decoded.deciders and _is_encoded(text)
        if not needed and not decodes:
            return ()
        views = Views(text)
        found = self._decided(transport.http, needed, views)
        for _ in range(2 if decodes else 0):
            views = DecodedViews(views)
            if views["total"].text == text:
                break
            text = views["total"].text
            needed = transport.decoded.screen.needs(text, self._budget)
            found = self._decided(transport.decoded, needed, views) | found
        return self._located([(index, *where) for index, where in found.items()], sport, dport)

    def _decided(self, stage: _Stage, needed: int, views: Views) -> dict[int, tuple[View, int]]:
        """Ask those deciders that are needed: by rule, the text that hit and where the hit ends."""
        found: dict[int, tuple[View, int]] = {}
        for bit, part, decider in stage.deciders:
            if needed & bit:
                view = views[part]
                hits: Hits = {}
                decider.add_hits(view.text, hits, self._budget)
                found.update((index, (view, end)) for index, end in hits.items())
        return found

    def _located(self, found: list[tuple[int, View, int]], sport: int, dport: int) -> tuple[Match, ...]:
        """Turn hits into matches, in the order of the rules."""
        matches: list[Match] = []
        if len(found) > 1:
            found.sort(key=itemgetter(0))
        for index, view, seen in found:
            rule = self.rules[index]
            if rule.port and rule.port != sport and rule.port != dport:
                continue
            if matches and self._budget.is_spent():
                spans = [(0, seen)]
            else:
                spans = self._captures[index].find(view.text, seen)
            hit, version = spans[0], rule.version
            if len(spans) > 1 and spans[1] != NOWHERE:
                hit = spans[1]
                if version is None:
                    version = view.text[hit[0] : hit[1]].decode("utf-8", "backslashreplace")
            matches.append(Match(rule, *view.place(*hit), version))
        return tuple(matches)


def _is_encoded(text: bytes) -> bool:
    return b"%" in text or b"+" in text


class _Transport:
    """What rules of one transport protocol look for, by what a payload is."""

    def __init__(self, rules: Mapping[int, Rule], http: HttpReading, deciders: _Deciders) -> None:
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
        self.http = _Stage([("total", plain_in_http), *parts_of(rules)], deciders)
        self.decoded = _Stage(
            parts_of({index: rule for index, rule in rules.items() if rule.decode}), deciders
        )

    def finds(self) -> Iterator[tuple[int, Finds]]:
        """Yield each rule with what is to find it, once for each database."""
        for index in self._plain:
            yield index, partial(_decides, self.plain, index)
        yield from self.http.finds()
        yield from self.decoded.finds()

    def leave(self, captures: Mapping[int, Captures]) -> None:
        """Leave these rules to RE2."""
        chosen = {index: captures[index] for index in self._plain if index in captures}
        if chosen:
            self.linear = LinearDecider(chosen)
        self.http.leave(captures)
        self.decoded.leave(captures)


class _Stage:
    """A screen, and the deciders it calls for, each with the part of the payload it looks at."""

    def __init__(self, groups: Iterable[tuple[Part, list[int]]], deciders: _Deciders) -> None:
        self._groups = [(part, rules) for part, rules in groups if rules]
        self.deciders: list[tuple[int, Part, Decider | LinearDecider]] = [
            (1 << bit, part, deciders.decider(rules)) for bit, (part, rules) in enumerate(self._groups)
        ]
        self.screen = deciders.screen(self._groups)

    def finds(self) -> Iterator[tuple[int, Finds]]:
        """Yield each rule with its screen and with its decider, either of which is to find it."""
        for (bit, _, decider), (_, rules) in zip(self.deciders, self._groups, strict=True):
            for index in rules:
                yield index, partial(_calls_for, self.screen, bit)
                yield index, partial(_decides, decider, index)

    def leave(self, captures: Mapping[int, Captures]) -> None:
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


class _Deciders:
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

    def screen(self, groups: Iterable[tuple[Part, list[int]]]) -> Screen:
        """Return the screen in front of the deciders of these groups.

        It sees the whole payload, where a part of it does not start or end.
        """
        trees = [
            {index: without(self._trees[index], _EDGES[part]) for index in rules} for part, rules in groups
        ]
        self._screens.append(Screen(trees))
        return self._screens[-1]

    def compile(self) -> int:
        """Compile all of them, on as many processors as there are; return their size in bytes."""
        made = [*self._deciders.values(), *(screen.signs for screen in self._screens)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return sum(pool.map(Decider.compile, made))
