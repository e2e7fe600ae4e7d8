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
from sensor.rules.engine.spans import NOWHERE, SpanFinder, UnknownSpanError
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
    views: list[Views] = []
    budget = budget or Budget(PAYLOAD_NS)
    for rule in rules:
        try:
            finder = span_finder(rule.regex)
            if rule.is_http:
                views = views or [Views(payload)]
                match = _in_http(rule, finder, views, budget) if http.matches(payload) else None
            else:
                match = _in_text(rule, finder, payload, budget)
        except (RegexError, UnknownSpanError):  # a rule that was kept by another release; too costly
            match = None
        yield match or Match(rule, None, None, rule.version)


def _in_http(rule: Rule, finder: SpanFinder, views: list[Views], budget: Budget) -> Match | None:
    """Search the views for the rule; those that are decoded are added to ``views`` when they are needed."""
    for decodings in range(MOST_DECODINGS + 1 if rule.decode else 1):
        if decodings == len(views):
            decoded = DecodedViews(views[-1])
            if decoded["total"].text == views[-1]["total"].text:
                return None
            views.append(decoded)
        match = _in_view(rule, finder, views[decodings][rule.part], budget)
        if match:
            return match
    return None


def _in_view(rule: Rule, finder: SpanFinder, view: View, budget: Budget) -> Match | None:
    """Search one view of the payload for the rule."""
    match = _in_text(rule, finder, view.text, budget)
    if match is None or match.start is None or match.end is None:
        return match
    start, end = view.payload_span(match.start, match.end)
    return match._replace(start=start, end=end)


def _in_text(rule: Rule, finder: SpanFinder, text: bytes, budget: Budget) -> Match | None:
    """Search a text for the rule; the place is that in the text."""
    spans = finder.find_first(text, budget)
    if not spans:
        return None
    (start, end), version = spans[0], rule.version
    if len(spans) > 1 and spans[1] != NOWHERE:
        start, end = spans[1]
        if version is None:
            version = text[start:end].decode("utf-8", "backslashreplace")
    return Match(rule, start, end, version)
