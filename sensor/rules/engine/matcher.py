"""Match payloads: Hyperscan decides which rules match, RE2 finds the span and group 1.

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
from sensor.rules.engine.proof import Finder, missed
from sensor.rules.engine.scan import SLICE, Budget, MatchEnds, note_match
from sensor.rules.engine.spans import NOWHERE
from sensor.rules.engine.stages import ENCODED, Deciders, Stage, Transport
from sensor.rules.engine.view import DecodedViews, View, Views

_ANY = -1

Found = tuple[int, bytes, View | None, int]
"""A rule's index, the text it matches, the text's view (None: the payload), and where the match ends."""

_TRANSPORT_OF = np.full(256, 2, np.uint8)
_TRANSPORT_OF[[TCP, UDP]] = 0, 1


class Payloads(NamedTuple):
    """The payloads of many packets, with the properties that rules test: one array entry per packet."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    """Offsets in the buffer that holds the payloads."""
    protocol: NDArray[np.uint8]
    sport: NDArray[np.uint16]
    dport: NDArray[np.uint16]
    is_http: NDArray[np.bool_]
    """True for payloads that look like HTTP, by the matcher's `HttpReading`."""


class Matcher:
    """All rules of a set, compiled."""

    def __init__(self, rules: Iterable[Rule], http: HttpReading = RFC9110) -> None:
        """Compile the rules.

        Raises:
            RegexError: One rule cannot be compiled; `load_rules` refuses such rules.
            RulesError: The rules cannot be compiled together.
        """
        self.rules = tuple(rules)
        self.http = http
        expressions = [expression(rule.regex) for rule in self.rules]
        self._span_finders = [one.span_finder for one in expressions]
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
        """Size of Hyperscan's databases."""
        self._budget = Budget()
        self.missed = tuple(self.rules[index] for index in self._prove(expressions))
        """Rules that Hyperscan was seen to miss; RE2 decides them."""

    @property
    def cut(self) -> int:
        """Scans stopped for their cost in CPU time.

        Only texts above `scan.SLICE` are cut; if there are ``missed`` rules, shorter ones too.
        """
        return self._budget.cut

    def _prove(self, expressions: Sequence[Expression]) -> list[int]:
        """Try every rule on its witness texts; give those that are missed to RE2, and return them."""
        finders: dict[int, list[Finder]] = {index: [] for index in range(len(expressions))}
        for transport in self._transports.values():
            for index, find in transport.finders():
                finders[index].append(find)
        indices = missed(expressions, finders)
        for transport in self._transports.values():
            transport.use_re2({index: self._span_finders[index] for index in indices})
        return indices

    def match(self, payload: bytes | memoryview, protocol: int, sport: int, dport: int) -> tuple[Match, ...]:
        """Return all matches of one packet's payload, in the order of the rules."""
        text, is_http = bytes(payload), self.http.matches(payload)
        transport = self._transports.get(protocol, self._other)
        ends: MatchEnds = {}
        if len(text) <= SLICE:
            transport.first[is_http].scan(text, note_match, 0, ends)
        return self._matches(transport, text, sport, dport, is_http, ends)

    def match_each(self, buffer: memoryview, payloads: Payloads) -> list[tuple[int, tuple[Match, ...]]]:
        """Match the payloads of many packets, which are in ``buffer``.

        Returns, in order, the position of each payload that matches, with its matches in rule order.
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
        """Match payloads that share their databases: scan all at once, then go on with those that match."""
        is_long = payloads.end[chosen] - payloads.start[chosen] > SLICE
        more = chosen if transport.searches_more[is_http] else chosen[is_long]
        ends: dict[int, MatchEnds] = {position: {} for position in more.tolist()}
        scan = transport.first[is_http].batch_scan
        if scan:
            found = scan.scan_each(address(buffer), payloads.start, payloads.end, chosen[~is_long])
            for position, index, end in found.tolist():
                if position in ends:
                    ends[position][index] = end
                else:
                    ends[position] = {index: end}
        positions = list(ends)
        columns = (payloads.start, payloads.end, payloads.sport, payloads.dport)
        rows = zip(ends.items(), *(column[positions].tolist() for column in columns), strict=True)
        for (position, text_ends), start, end, sport, dport in rows:
            text = buffer[start:end].tobytes()
            matches = self._matches(transport, text, sport, dport, is_http, text_ends)
            if matches:
                yield position, matches

    def _matches(
        self, transport: Transport, text: bytes, sport: int, dport: int, is_http: bool, ends: MatchEnds
    ) -> tuple[Match, ...]:
        """Return the matches of one text.

        ``ends`` is what the transport's first database found; it has not scanned texts above `SLICE`.
        """
        self._budget.renew()
        if len(text) > SLICE:
            transport.first[is_http].add_matches(text, ends, self._budget)
        if is_http:
            found = self._search_http(transport, text, reduce(or_, ends, transport.http.screen.always))
        else:
            if transport.linear:
                transport.linear.add_matches(text, ends, self._budget)
            found = [(index, text, None, end) for index, end in ends.items()]
        return self._locate(found, sport, dport) if found else ()

    def _search_http(self, transport: Transport, text: bytes, needed: int) -> list[Found]:
        """Search the parts of an HTTP payload as they are, decoded once, and decoded twice."""
        views = Views(text)
        found = self._decide(transport.http, needed, views)
        for _ in range(2 if needed & ENCODED else 0):
            views = DecodedViews(views)
            if views["total"].text == text:
                break
            text = views["total"].text
            needed = transport.decoded.screen.needs(text, self._budget)
            found = self._decide(transport.decoded, needed, views) | found
        return [(index, view.text, view, end) for index, (view, end) in found.items()]

    def _decide(self, stage: Stage, needed: int, views: Views) -> dict[int, tuple[View, int]]:
        """Run the deciders that are needed; return, by rule, the text it matches and where the match ends."""
        found: dict[int, tuple[View, int]] = {}
        for bit, part, decider in stage.deciders:
            if needed & bit:
                view = views[part]
                ends: MatchEnds = {}
                decider.add_matches(view.text, ends, self._budget)
                found.update((index, (view, end)) for index, end in ends.items())
        return found

    def _locate(self, found: list[Found], sport: int, dport: int) -> tuple[Match, ...]:
        """Find the span and version of each match; return the matches in rule order."""
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
                spans = self._span_finders[index].find(text, seen)
            span, version = spans[0], rule.version
            if len(spans) > 1 and spans[1] != NOWHERE:
                span = spans[1]
                if version is None:
                    version = text[span[0] : span[1]].decode("utf-8", "backslashreplace")
            start, end = view.payload_span(*span) if view else span
            matches.append(Match(rule, start, end, version))
        return tuple(matches)
