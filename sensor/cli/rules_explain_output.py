"""Output of ``sensor rules explain``: a packet in a few lines, or rule by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sensor.explain import Explanation
from sensor.model import Match
from sensor.protocols import protocol_name
from sensor.rules.files.describe import match_object, match_words
from sensor.rules.obstacles import Obstacle
from sensor.text import INCOMPLETE, count_of, endpoint

_NO_MATCH = "no hit"
"""The outcome as JSON has it; text says *no match*."""


class Totals:
    """Sums over the packets of a file."""

    def __init__(self) -> None:
        self._packets = self._tried = self._matches = self._counted = 0
        self._rules: set[int] = set()

    def add(self, explanation: Explanation) -> None:
        """Add a packet."""
        self._packets += 1
        self._tried += explanation.untried is None
        self._matches += len(explanation.matches)
        self._counted += len(explanation.counted)
        self._rules.update(match.rule.rule_id for match in explanation.matches)

    def __str__(self) -> str:
        uncounted = f", {self._matches - self._counted} of them not counted" * (self._matches > self._counted)
        return (
            f"packets: {self._packets}, with rules tried: {self._tried}, "
            f"matches: {self._matches}{uncounted}, rules that matched: {len(self._rules)}"
        )


def explanation_object(explanation: Explanation) -> dict[str, Any]:
    """Return the explanation of a packet, ready for JSON."""
    five_tuple = explanation.five_tuple
    return {
        "packet": explanation.number,
        "time_us": explanation.timestamp_ns // 1000,
        "protocol": protocol_name(five_tuple.protocol) if five_tuple else None,
        "sip": five_tuple.source_text if five_tuple else None,
        "sport": five_tuple.sport if five_tuple else None,
        "dip": five_tuple.destination_text if five_tuple else None,
        "dport": five_tuple.dport if five_tuple else None,
        "payload_bytes": len(explanation.payload),
        "is_http": explanation.is_http,
        "untried": explanation.untried,
        "incomplete": explanation.incomplete,
        "hits": [
            {**match_object(match, explanation.payload), "counted": match in explanation.counted}
            for match in explanation.matches
        ],
        "outcomes": dict(_outcomes(explanation)),
    }


def outcome_objects(explanation: Explanation) -> list[dict[str, Any]]:
    """Return the outcome of each rule, ready for JSON."""
    return [{"rule": rule.rule_id, "outcome": _outcome(outcome)} for rule, outcome in explanation.outcomes()]


def packet_lines(explanation: Explanation) -> Iterator[str]:
    """Explain a packet in a few lines: its matches, and how many rules did not match and why."""
    yield _headline(explanation)
    for match in explanation.matches:
        rule = match.rule
        counted = "" if match in explanation.counted else " (not counted: its class has matched in this flow)"
        yield (
            f"    match: {rule.rule_class} {rule.rule_id} {rule.name}, "
            f"{match_words(match, explanation.payload)}{counted}"
        )
    outcomes = _outcomes(explanation)
    if not outcomes:
        return
    unmatched = outcomes.pop(_NO_MATCH, 0)
    untried = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
    yield f"    no match: {count_of(unmatched, 'rule')}" + (f"; not tried: {untried}" if untried else "")


def rule_lines(explanation: Explanation) -> Iterator[str]:
    """Explain a packet rule by rule."""
    yield _headline(explanation)
    for rule, outcome in explanation.outcomes():
        if isinstance(outcome, Match):
            shown = f"match, {match_words(outcome, explanation.payload)}"
        else:
            shown = outcome.value if outcome else "no match"
        yield f"    {rule.rule_class} {rule.rule_id} {rule.name}: {shown}"


def _headline(explanation: Explanation) -> str:
    line = f"{explanation.number}  "
    if explanation.five_tuple:
        source = endpoint(explanation.five_tuple.source_text, explanation.five_tuple.sport)
        destination = endpoint(explanation.five_tuple.destination_text, explanation.five_tuple.dport)
        line += f"{protocol_name(explanation.five_tuple.protocol)} {source} > {destination}  "
    if explanation.payload:
        line += f"{len(explanation.payload)} bytes{' of HTTP' if explanation.is_http else ''}  "
    if explanation.untried:
        line += f"no rule is tried: {explanation.untried}"
    elif explanation.incomplete:
        line += INCOMPLETE
    return line.rstrip()


def _outcomes(explanation: Explanation) -> Counter[str]:
    """Count the rules that did not match, by outcome."""
    outcomes = explanation.outcomes()
    return Counter(_outcome(outcome) for _, outcome in outcomes if not isinstance(outcome, Match))


def _outcome(outcome: Match | Obstacle | None) -> str:
    if isinstance(outcome, Match):
        return "hit"
    return outcome.value if outcome else _NO_MATCH
