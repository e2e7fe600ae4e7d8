"""Why a rule does or does not hit a payload; runs in the ``sensor rules`` commands.

Whether it hits, the matcher alone says. What is said here about the rest is held against the
matcher in the tests.
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


class Specimen(NamedTuple):
    """A payload and the packet's properties that rules ask for, in the order `Matcher.match` takes them."""

    payload: bytes
    protocol: int
    sport: int
    dport: int


class Obstacle(Enum):
    """Why the regex of a rule is not even looked for."""

    TRANSPORT = "another transport"
    PORT = "another port"
    NOT_HTTP = "not HTTP"
    NO_BODY = "no body"


_CHANGES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"part": "total"}, 'with "part": "total"'),
    ({"decode": "url"}, 'with "decode": "url"'),
)


def obstacle(rule: Rule, subject: Specimen, profile: Profile) -> Obstacle | None:
    """Return the first condition of the rule that the packet fails; None where the regex is looked for."""
    if rule.protocol not in (None, subject.protocol):
        return Obstacle.TRANSPORT
    if rule.port and rule.port not in (subject.sport, subject.dport):
        return Obstacle.PORT
    if rule.is_http and not profile.http.matches(subject.payload):
        return Obstacle.NOT_HTTP
    if rule.is_http and rule.part == "body" and not Views(subject.payload)["body"].text:
        return Obstacle.NO_BODY
    return None


def match(rule: Rule, subject: Specimen, profile: Profile) -> Match | None:
    """Return the rule's match in the payload, by a matcher of this rule alone."""
    if not _is_matched(subject, profile):
        return None
    return next(iter(Matcher([rule], profile.http).match(*subject)), None)


def reasons(rule: Rule, subject: Specimen, profile: Profile) -> Iterator[str]:
    """Say why a rule that did not hit did not, and what would have."""
    failed = obstacle(rule, subject, profile)
    if not _is_matched(subject, profile):
        yield (
            f"only payloads of 1 to {profile.longest} bytes are matched" if profile.longest else "no payload"
        )
    elif failed is not None:
        yield f"{failed.value}; the rule looks at {conditions(rule)}"
    else:
        yield _progress(rule, subject, profile) or "the regex does not hit"
        for change, text in _CHANGES if rule.is_http else ():
            changed = match(replace(rule, **change), subject, profile)
            if changed:
                yield f"{text} it hits bytes {changed.start}-{changed.end}"


def _is_matched(subject: Specimen, profile: Profile) -> bool:
    return 0 < len(subject.payload) <= (profile.longest or len(subject.payload))


def _progress(rule: Rule, subject: Specimen, profile: Profile) -> str | None:
    """Say how much of the regex hits, from its beginning on; None where nothing of it does."""
    beginnings = _beginnings(rule.regex)
    best, hit = "", None
    usable = list(beginnings)
    while usable:
        middle = len(usable) // 2
        try:
            found = match(replace(rule, regex=usable[middle]), subject, profile)
        except RegexError:  # a beginning may match nothing at all
            del usable[middle]
            continue
        if found is None:
            del usable[middle:]
        else:
            best, hit = usable[middle], found
            del usable[: middle + 1]
    if hit is None:
        return None
    missing = beginnings[beginnings.index(best) + 1].removeprefix(best)
    return f'the regex hits bytes {hit.start}-{hit.end} as far as "{best}", not with "{missing}" behind it'


def _beginnings(regex: str) -> list[str]:
    """List what the regex reads as up to the end of each of its parts, the shortest first."""
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
