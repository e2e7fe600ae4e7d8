"""Payload to matches: Hyperscan decides, RE2 says where and what group 1 is.

Runs in the capture workers and in ``sensor read``. A matcher belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import itemgetter, or_
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.model import Match, Rule
from sensor.native import address
from sensor.protocols import TCP, UDP
from sensor.rules.engine.expression import Expression, expression
from sensor.rules.engine.http_payload import RFC9110, HttpReading
from sensor.rules.engine.proof import Finds, missed
from sensor.rules.engine.scan import SLICE, Budget, Hits, note
from sensor.rules.engine.spans import NOWHERE
from sensor.rules.engine.stages import ENCODED, Deciders, Stage, Transport
from sensor.rules.engine.view import DecodedViews, View, Views

_ANY = -1

Found = tuple[int, bytes, View | None, int]
"""The index of a rule, the text that hit, its view where that is not the payload, and where the hit ends."""


_TRANSPORT_OF = np.full(256, 2, np.uint8)
_TRANSPORT_OF[[TCP, UDP]] = 0, 1


class Payloads(NamedTuple):
    """The payloads of many packets, and what rules ask of these: arrays with an entry a packet."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    """Offsets in the buffer they stand in."""
    protocol: NDArray[np.uint8]
    sport: NDArray[np.uint16]
    dport: NDArray[np.uint16]
    is_http: NDArray[np.bool_]
    """Which look like HTTP, as the matcher's `HttpReading` says."""


class Matcher:
    """All rules, ready to match payloads."""

    def __init__(self, rules: Iterable[Rule], http: HttpReading = RFC9110) -> None:
        """Compile the rules.

        Raises `sensor.rules.regex.tree.RegexError` where one cannot be, `RulesError` where all together
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
            for protocol in (TCP, UDP, _ANY)
        }
        self._other = self._transports[_ANY]
        self._by_kind = (self._transports[TCP], self._transports[UDP], self._other)
        self.size_bytes = deciders.compile()
        """Of Hyperscan's databases."""
        self._budget = Budget()
        self.missed = tuple(self.rules[index] for index in self._prove(expressions))
        """Rules that Hyperscan was seen to miss; RE2 decides them."""

    @property
    def cut(self) -> int:
        """Scans broken off for their cost in CPU time, where texts are above `scan.SLICE`.

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
        for transport in self._transports.values():
            transport.leave({index: self._captures[index] for index in indices})
        return indices

    def match(self, payload: bytes | memoryview, protocol: int, sport: int, dport: int) -> tuple[Match, ...]:
        """Return all matches of one packet's payload, in the order of the rules."""
        text, is_http = bytes(payload), self.http.matches(payload)
        transport = self._transports.get(protocol, self._other)
        hits: Hits = {}
        if len(text) <= SLICE:
            transport.first[is_http].scan(text, note, 0, hits)
        return self._matches(transport, text, sport, dport, is_http, hits)

    def match_each(self, buffer: memoryview, payloads: Payloads) -> list[tuple[int, tuple[Match, ...]]]:
        """Match the payloads of many packets, which stand in ``buffer``.

        Returns the position of each that matches, in order, with its matches in the order of the rules.
        """
        kinds = 2 * _TRANSPORT_OF[payloads.protocol] + payloads.is_http
        found: list[tuple[int, tuple[Match, ...]]] = []
        for kind in np.unique(kinds).tolist():
            of_kind = np.flatnonzero(kinds == kind)
            found += self._match_kind(self._by_kind[kind >> 1], bool(kind & 1), buffer, payloads, of_kind)
        found.sort(key=itemgetter(0))
        return found

    def _match_kind(
        self,
        transport: Transport,
        is_http: bool,
        buffer: memoryview,
        payloads: Payloads,
        chosen: NDArray[np.intp],
    ) -> Iterator[tuple[int, tuple[Match, ...]]]:
        """Match payloads that meet the same databases: all at once first, then those in which it hits."""
        is_long = payloads.end[chosen] - payloads.start[chosen] > SLICE
        more = chosen if transport.asks_more[is_http] else chosen[is_long]
        hits: dict[int, Hits] = {position: {} for position in more.tolist()}
        scan = transport.first[is_http].batch_scan
        if scan:
            found = scan.scan_each(address(buffer), payloads.start, payloads.end, chosen[~is_long])
            for position, index, end in found.tolist():
                if position in hits:
                    hits[position][index] = end
                else:
                    hits[position] = {index: end}
        positions = list(hits)
        columns = (payloads.start, payloads.end, payloads.sport, payloads.dport)
        rows = zip(hits.items(), *(column[positions].tolist() for column in columns), strict=True)
        for (position, of_text), start, end, sport, dport in rows:
            text = buffer[start:end].tobytes()
            matches = self._matches(transport, text, sport, dport, is_http, of_text)
            if matches:
                yield position, matches

    def _matches(
        self, transport: Transport, text: bytes, sport: int, dport: int, is_http: bool, hits: Hits
    ) -> tuple[Match, ...]:
        """Go on from the ``hits`` of the transport's first database, which no text above `SLICE` has met."""
        self._budget.renew()
        if len(text) > SLICE:
            transport.first[is_http].add_hits(text, hits, self._budget)
        if is_http:
            found = self._search_http(transport, text, reduce(or_, hits, transport.http.screen.always))
        else:
            if transport.linear:
                transport.linear.add_hits(text, hits, self._budget)
            found = [(index, text, None, end) for index, end in hits.items()]
        return self._located(found, sport, dport) if found else ()

    def _search_http(self, transport: Transport, text: bytes, needed: int) -> list[Found]:
        """Look at the parts of an HTTP payload as they are, decoded once, and decoded twice."""
        views = Views(text)
        found = self._decided(transport.http, needed, views)
        for _ in range(2 if needed & ENCODED else 0):
            views = DecodedViews(views)
            if views["total"].text == text:
                break
            text = views["total"].text
            needed = transport.decoded.screen.needs(text, self._budget)
            found = self._decided(transport.decoded, needed, views) | found
        return [(index, view.text, view, end) for index, (view, end) in found.items()]

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
        for index, text, view, seen in found:
            rule = self.rules[index]
            if rule.port and rule.port != sport and rule.port != dport:
                continue
            if matches and self._budget.is_spent():
                spans = [(0, seen)]
            else:
                spans = self._captures[index].find(text, seen)
            hit, version = spans[0], rule.version
            if len(spans) > 1 and spans[1] != NOWHERE:
                hit = spans[1]
                if version is None:
                    version = text[hit[0] : hit[1]].decode("utf-8", "backslashreplace")
            start, end = view.place(*hit) if view else hit
            matches.append(Match(rule, start, end, version))
        return tuple(matches)
