"""Explain why a rule does or does not match a payload. Runs in the ``sensor rules`` commands.

Only the matcher decides whether a rule matches. The tests compare the explanations with its decisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from typing import Any, NamedTuple

from sensor.model import Match, Rule
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.profile import Profile
from sensor.rules.engine.view import Views
from sensor.rules.files.describe import conditions
from sensor.rules.regex.parser import parse
from sensor.rules.regex.tree import RegexError, Sequence
from sensor.text import UNKNOWN_POSITION


class Specimen(NamedTuple):
    """A payload to try rules on, with its packet's properties: the arguments of `Matcher.match`."""

    payload: bytes
    protocol: int
    sport: int
    dport: int


class Obstacle(Enum):
    """Why a rule does not search a packet at all."""

    TRANSPORT = "another transport"
    PORT = "another port"
    NOT_HTTP = "not HTTP"
    NO_BODY = "no body"


_CHANGES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"part": "total"}, 'with "part": "total"'),
    ({"decode": "url"}, 'with "decode": "url"'),
)


def obstacle(rule: Rule, specimen: Specimen, profile: Profile) -> Obstacle | None:
    """Return the first condition of the rule that the packet fails, or None if the regex is searched for."""
    if rule.protocol not in (None, specimen.protocol):
        return Obstacle.TRANSPORT
    if rule.port and rule.port not in (specimen.sport, specimen.dport):
        return Obstacle.PORT
    if rule.is_http and not profile.http.matches(specimen.payload):
        return Obstacle.NOT_HTTP
    if rule.is_http and rule.part == "body" and not Views(specimen.payload)["body"].text:
        return Obstacle.NO_BODY
    return None


def match(rule: Rule, specimen: Specimen, profile: Profile) -> Match | None:
    """Return the match of this rule alone in the payload, or None."""
    if not _is_matched(specimen, profile):
        return None
    return next(iter(Matcher([rule], profile.http).match(*specimen)), None)


def reasons(rule: Rule, specimen: Specimen, profile: Profile) -> Iterator[str]:
    """Yield the reasons why a rule does not match, and changes to the rule with which it would."""
    failed = obstacle(rule, specimen, profile)
    if not _is_matched(specimen, profile):
        yield (
            f"only payloads of 1 to {profile.longest} bytes are matched" if profile.longest else "no payload"
        )
    elif failed is not None:
        yield f"{failed.value}; the rule looks at {conditions(rule)}"
    else:
        yield _progress(rule, specimen, profile) or "the regex does not match"
        for change, text in _CHANGES if rule.is_http else ():
            changed = match(replace(rule, **change), specimen, profile)
            if changed:
                yield f"{text} it matches {_place(changed)}"


def _is_matched(specimen: Specimen, profile: Profile) -> bool:
    return 0 < len(specimen.payload) <= (profile.longest or len(specimen.payload))


def _progress(rule: Rule, specimen: Specimen, profile: Profile) -> str | None:
    """Return how much of the regex matches, from its start; None if no part of it does."""
    beginnings = _beginnings(rule.regex)
    best, best_match = "", None
    usable = list(beginnings)
    while usable:
        middle = len(usable) // 2
        try:
            found = match(replace(rule, regex=usable[middle]), specimen, profile)
        except RegexError:  # a beginning may match the empty string
            del usable[middle]
            continue
        if found is None:
            del usable[middle:]
        else:
            best, best_match = usable[middle], found
            del usable[: middle + 1]
    if best_match is None:
        return None
    missing = beginnings[beginnings.index(best) + 1].removeprefix(best)
    return f'the regex matches {_place(best_match)} up to "{best}", but not with "{missing}" after it'


def _place(match: Match) -> str:
    return UNKNOWN_POSITION if match.start is None else f"bytes {match.start}-{match.end}"


def _beginnings(regex: str) -> list[str]:
    """Return the regex cut off after each of its top-level parts, the shortest first."""
    whole = parse(regex.encode())
    if not isinstance(whole, Sequence):
        return []
    found = {}
    for end in range(1, len(regex) + 1):
        try:
            tree = parse(regex[:end].encode())
        except RegexError:
            continue
        nodes = tree.nodes if isinstance(tree, Sequence) else (tree,)
        if nodes == whole.nodes[: len(nodes)]:
            found[len(nodes)] = regex[:end]
    return [text for _, text in sorted(found.items())]
