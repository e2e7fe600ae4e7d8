"""Payload to matches: Hyperscan decides, RE2 says where and what group 1 is.

Runs in the capture workers and in ``sensor read``. A matcher belongs to one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import itemgetter, or_

from sensor.model import Match, Rule
from sensor.rules.captures import NOWHERE
from sensor.rules.expression import Expression, expression
from sensor.rules.http import RFC9110, HttpReading
from sensor.rules.proof import Finds, missed
from sensor.rules.scan import SLICE, Budget, Hits, note
from sensor.rules.stages import Deciders, Stage, Transport
from sensor.rules.view import DecodedViews, View, Views

log = logging.getLogger(__name__)

_TCP, _UDP, _ANY = 6, 17, -1

Found = tuple[int, View, int]
"""The index of a rule, the text that hit, and where a hit in it ends."""


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
        deciders = Deciders({index: one.tree for index, one in enumerate(expressions)})
        self._transports = {
            protocol: Transport(
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
        hits: Hits = {}
        if len(text) <= SLICE:
            transport.first[is_http].scan(text, note, 0, hits)
            if not hits and not transport.asks_more[is_http]:  # nearly every packet ends here
                return ()
        self._budget.renew()
        if len(text) > SLICE:
            transport.first[is_http].add_hits(text, hits, self._budget)
        if is_http:
            found = self._search_http(transport, text, reduce(or_, hits, transport.http.screen.always))
        else:
            if transport.linear:
                transport.linear.add_hits(text, hits, self._budget)
            view = View(text)
            found = [(index, view, end) for index, end in hits.items()]
        return self._located(found, sport, dport) if found else ()

    def _search_http(self, transport: Transport, text: bytes, needed: int) -> list[Found]:
        """Look at the parts of an HTTP payload as they are, decoded once, and decoded twice."""
        decodes = transport.decoded.deciders and _is_encoded(text)
        if not needed and not decodes:
            return []
        views = Views(text)
        found = self._decided(transport.http, needed, views)
        for _ in range(2 if decodes else 0):
            views = DecodedViews(views)
            if views["total"].text == text:
                break
            text = views["total"].text
            needed = transport.decoded.screen.needs(text, self._budget)
            found = self._decided(transport.decoded, needed, views) | found
        return [(index, *where) for index, where in found.items()]

    def _decided(self, stage: Stage, needed: int, views: Views) -> dict[int, tuple[View, int]]:
        """Ask those deciders that are needed: by rule, the text that hit and where the hit ends."""
        found: dict[int, tuple[View, int]] = {}
        for bit, part, decider in stage.deciders:
            if needed & bit:
                view = views[part]
                hits: Hits = {}
                decider.add_hits(view.text, hits, self._budget)
                found.update((index, (view, end)) for index, end in hits.items())
        return found

    def _located(self, found: list[Found], sport: int, dport: int) -> tuple[Match, ...]:
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
