"""Locate matches: where a rule matches a payload, and which version it names.

The capture path only decides which rules match. Whoever shows stored evidence locates the matches with
`locate`, from the payload and the rule's text alone: ``sensor read``, ``sensor evidence``, the API and
the event sender.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sensor.model import Match, Rule
from sensor.rules.engine.budget import Budget
from sensor.rules.engine.expression import span_finder
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.spans import NOWHERE, Span, UnknownSpanError
from sensor.rules.engine.view import DecodedViews, View, Views
from sensor.rules.regex.tree import RegexError

MOST_DECODINGS = 2
PAYLOAD_NS = 100_000_000
"""CPU time in which the matches of one payload are located, unless the caller has a budget of its own."""


def locate(rule: Rule, payload: bytes, http: HttpReading, budget: Budget | None = None) -> Match:
    """Return the match of a rule that is known to match this payload.

    The span is the one that PCRE finds, in the first of these texts in which it finds any: the rule's
    part of the payload as it is, decoded once, decoded twice.

    The span is unknown, and the version is the rule's own, if the match cannot be found: because that would
    cost too much (`SpanFinder.find_first`), because ``budget`` is spent, or because the payload was cut or
    the rule is not the one that matched.
    """
    return next(locate_each((rule,), payload, http, budget))


def locate_each(
    rules: Iterable[Rule], payload: bytes, http: HttpReading, budget: Budget | None = None
) -> Iterator[Match]:
    """Yield the match of each rule, in order, as `locate` does; the payload is decoded only once."""
    views = [Views(payload)]
    is_http = http.matches(payload)
    budget = budget or Budget(PAYLOAD_NS)
    for rule in rules:
        match = _first_match(rule, views, budget) if is_http or not rule.is_http else None
        yield match or Match(rule, None, None, rule.version)


def _match_of(rule: Rule, view: View, spans: list[Span]) -> Match:
    """Return the match of which a span finder returned ``spans`` in this view of the payload."""
    span, version = spans[0], rule.version
    if len(spans) > 1 and spans[1] != NOWHERE:
        span = spans[1]
        if version is None:
            version = view.text[span[0] : span[1]].decode("utf-8", "backslashreplace")
    return Match(rule, *view.payload_span(*span), version)


def _first_match(rule: Rule, views: list[Views], budget: Budget) -> Match | None:
    """Search the views for the rule; those that are decoded are added to ``views`` when they are needed."""
    try:
        finder = span_finder(rule.regex)
    except RegexError:  # kept by another release
        return None
    for decodings in range(MOST_DECODINGS + 1 if rule.is_http and rule.decode else 1):
        if decodings == len(views):
            decoded = DecodedViews(views[-1])
            if decoded["total"].text == views[-1]["total"].text:
                return None
            views.append(decoded)
        view = views[decodings][rule.part if rule.is_http else "total"]
        try:
            spans = finder.find_first(view.text, budget)
        except UnknownSpanError:
            return None
        if spans:
            return _match_of(rule, view, spans)
    return None
