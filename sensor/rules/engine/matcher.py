"""Match payloads: Hyperscan decides which rules match; RE2 finds the span and group 1 when asked.

Runs in the capture workers and in ``sensor read``. A matcher belongs to one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.model import Match, Rule
from sensor.native.batch_matcher import BatchMatcher
from sensor.protocols import TCP, UDP
from sensor.rules.engine import budget
from sensor.rules.engine.budget import Budget
from sensor.rules.engine.expression import Expression, expression, span_finder
from sensor.rules.engine.http_payload import RFC9110, HttpReading
from sensor.rules.engine.locate import locate_each
from sensor.rules.engine.proof import Finder, Scanners, missed
from sensor.rules.engine.scan import SLICE
from sensor.rules.engine.stages import Deciders, Transport

MISSED_AT_ONCE = 32
"""Payloads tried with RE2, which may cost the whole budget of each, between two looks at the clock."""
_ANY = -1

Transports = tuple[Transport, Transport, Transport]
"""For TCP, UDP and all other protocols."""

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

    def select(self, chosen: slice | NDArray[np.intp] | NDArray[np.bool_]) -> Payloads:
        """Return the chosen payloads."""
        return Payloads._make(column[chosen] for column in self)


class Matches(NamedTuple):
    """The rules that match the payloads of a batch: one array entry per payload and rule, sorted by both."""

    payload: NDArray[np.int64]
    """Position of the payload in the batch."""
    rule: NDArray[np.uint32]
    """Position of the rule in `Matcher.rules`."""
    incomplete: NDArray[np.bool_]
    """True for each payload whose search was cut for its cost, so that more rules may match; shape (n,).

    The n payloads are those that were tried: the first ones, and all of them unless the time was over.
    """
    cost_ns: NDArray[np.int64]
    """Wall-clock time that each of the n payloads took; 0 unless it was asked for."""


class Matcher:
    """All rules of a set, compiled."""

    def __init__(
        self,
        rules: Iterable[Rule],
        http: HttpReading = RFC9110,
        watch: Callable[[int], None] = lambda _index: None,
    ) -> None:
        """Compile the rules; ``watch`` is called with the index of each rule that is about to be proven.

        Raises:
            RegexError: One rule cannot be compiled; `load_rules` refuses such rules.
            RulesError: The rules cannot be compiled together.
        """
        rules = tuple(rules)
        expressions = [expression(rule.regex) for rule in rules]
        deciders = Deciders({index: one.tree for index, one in enumerate(expressions)})
        tcp, udp, other = (
            Transport.of(
                {index: rule for index, rule in enumerate(rules) if rule.protocol in (None, protocol)},
                http,
                deciders,
            )
            for protocol in (TCP, UDP, _ANY)
        )
        size_bytes = deciders.compile()
        missed_rules = _prove(expressions, (tcp, udp, other), watch)
        self._set_up(rules, http, (tcp, udp, other), size_bytes, missed_rules)

    @classmethod
    def restored(
        cls,
        rules: tuple[Rule, ...],
        http: HttpReading,
        transports: Transports,
        size_bytes: int,
        missed_rules: Sequence[int],
    ) -> Matcher:
        """Return a matcher from the parts of an earlier one (`sensor.rules.engine.compiled_rules`)."""
        matcher = cls.__new__(cls)
        matcher._set_up(rules, http, transports, size_bytes, missed_rules)
        return matcher

    def _set_up(
        self,
        rules: tuple[Rule, ...],
        http: HttpReading,
        transports: Transports,
        size_bytes: int,
        missed_rules: Sequence[int],
    ) -> None:
        self.rules = rules
        self.http = http
        self.transports = transports
        """For TCP, UDP and all other protocols."""
        self.size_bytes = size_bytes
        """Size of Hyperscan's databases."""
        self.cut = 0
        """Payloads whose search was cut for its cost, so that rules may have been missed."""
        self.missed = tuple(rules[index] for index in missed_rules)
        """Rules that Hyperscan was seen to miss; RE2 decides them."""
        if missed_rules:
            finders = {index: span_finder(rules[index].regex) for index in missed_rules}
            for transport in transports:
                transport.use_re2(finders)
        self._uses_re2 = np.array([transport.searches_more for transport in transports])
        """True if RE2 decides some rules, by transport and by whether the payload looks like HTTP."""

    @cached_property
    def batch_matcher(self) -> BatchMatcher:
        """The databases as `matches` uses them. Processes forked after the first use share them."""
        tcp, udp, other = self.transports
        return BatchMatcher((tcp.plan, udp.plan, other.plan), [rule.port for rule in self.rules], SLICE)

    def matches(
        self, buffer: memoryview, payloads: Payloads, stop_ns: int = 0, *, measure: bool = False
    ) -> Matches:
        """Decide which rules match the payloads of many packets, which are in ``buffer``.

        After ``stop_ns`` of the monotonic clock no further payload is tried, unless it is 0; at least one is
        tried if there is one. ``measure`` asks for the time that each of them takes. Spans and versions are
        left to `sensor.rules.engine.locate`. The work is done in C, without the interpreter's lock, apart
        from rules that Hyperscan misses.

        Raises:
            SensorError: A payload is not within the buffer.
        """
        if not len(payloads.start):
            nothing = np.empty(0, np.int64)
            return Matches(nothing, np.empty(0, np.uint32), np.empty(0, np.bool_), nothing)
        if not self.missed:
            found = self._in_one_call(buffer, payloads, stop_ns, measure)
        else:
            found = self._with_re2(buffer, payloads, stop_ns, measure)
        self.cut += int(np.count_nonzero(found.incomplete))
        return found

    def _with_re2(self, buffer: memoryview, payloads: Payloads, stop_ns: int, measure: bool) -> Matches:
        """Match some payloads at a time, as RE2 may spend the whole budget of each."""
        parts: list[Matches] = []
        for tried in range(0, len(payloads.start), MISSED_AT_ONCE):
            part = Payloads._make(column[tried : tried + MISSED_AT_ONCE] for column in payloads)
            found = self._with_missed(self._in_one_call(buffer, part, 0, measure), buffer, part, measure)
            parts.append(found._replace(payload=found.payload + tried))
            if stop_ns and time.monotonic_ns() >= stop_ns:
                break
        return Matches(*map(np.concatenate, zip(*parts, strict=True)))

    def _in_one_call(self, buffer: memoryview, payloads: Payloads, stop_ns: int, measure: bool) -> Matches:
        """Match with Hyperscan alone."""
        transports = _TRANSPORT_OF[payloads.protocol]
        ports = payloads.sport, payloads.dport
        columns = payloads.start, payloads.end, transports, payloads.is_http, *ports
        data = np.frombuffer(buffer, np.uint8)
        most_ns = budget.PAYLOAD_NS // 2 if self.missed else budget.PAYLOAD_NS  # RE2 gets the other half
        budgets_ns = min(budget.SHORT_NS, most_ns), most_ns, min(budget.EXTRA_NS, most_ns)
        found = self.batch_matcher.match(
            data, *columns, budgets_ns=budgets_ns, stop_ns=stop_ns, measure=measure
        )
        return Matches(*found)

    def _with_missed(self, found: Matches, buffer: memoryview, payloads: Payloads, measure: bool) -> Matches:
        """Add the matches of the rules that Hyperscan misses."""
        is_http = payloads.is_http.astype(np.intp)
        chosen = np.flatnonzero(self._uses_re2[_TRANSPORT_OF[payloads.protocol], is_http])
        columns = (payloads.start, payloads.end, payloads.protocol, payloads.sport, payloads.dport)
        rows = zip(
            chosen.tolist(),
            *(column[chosen].tolist() for column in (*columns, payloads.is_http)),
            strict=True,
        )
        size = max(len(self.rules), 1)
        keys = [found.payload * size + found.rule]
        incomplete, cost_ns = found.incomplete.copy(), found.cost_ns.copy()
        for position, start, end, protocol, sport, dport, is_http in rows:
            started_ns = time.monotonic_ns()
            rest = Budget(budget.PAYLOAD_NS // 2)
            transport = self.transports[_TRANSPORT_OF[protocol]]
            indices = transport.missed_matches(buffer[start:end].tobytes(), rest, is_http=is_http)
            wanted = [index for index in indices if self.rules[index].port in (0, sport, dport)]
            keys.append(position * size + np.array(wanted, np.int64))
            incomplete[position] |= rest.is_cut
            cost_ns[position] += time.monotonic_ns() - started_ns if measure else 0
        payload, rule = np.divmod(np.unique(np.concatenate(keys)), size)
        return Matches(payload, rule.astype(np.uint32), incomplete, cost_ns)

    def match(self, payload: bytes | memoryview, protocol: int, sport: int, dport: int) -> tuple[Match, ...]:
        """Return all matches of one packet's payload with their places, in the order of the rules."""
        text = bytes(payload)
        if not text:
            return ()
        payloads = Payloads(
            np.array([0]),
            np.array([len(text)]),
            np.array([protocol], np.uint8),
            np.array([sport], np.uint16),
            np.array([dport], np.uint16),
            np.array([self.http.matches(text)]),
        )
        found = self.matches(memoryview(text), payloads).rule.tolist()
        return tuple(locate_each([self.rules[number] for number in found], text, self.http))


def _prove(
    expressions: Sequence[Expression], transports: Transports, watch: Callable[[int], None]
) -> list[int]:
    """Try every rule on its witness texts, and return the indices of those that Hyperscan misses."""
    finders: dict[int, list[Finder]] = {index: [] for index in range(len(expressions))}
    scanners = Scanners()
    for transport in transports:
        for index, find in transport.finders(scanners):
            finders[index].append(find)
    return missed(expressions, finders, watch)
