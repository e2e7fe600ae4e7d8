"""Payload to matches: Hyperscan decides, an exact engine says where and what group 1 is.

Runs in the capture workers and in ``sensor read``. A matcher belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import hyperscan

from sensor.model import Match, Rule
from sensor.rules.captures import Captures
from sensor.rules.http import RFC9110, HttpReading, head_end, raw_offsets, url_decode
from sensor.rules.load import RuleSet

_FLAGS = hyperscan.HS_FLAG_CASELESS | hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_PREFILTER
_PARTS: tuple[Literal["head", "body", "total"], ...] = ("head", "body", "total")


class Matcher:
    """All rules, ready to match payloads."""

    def __init__(self, rules: RuleSet | Iterable[Rule], http: HttpReading = RFC9110) -> None:
        self.rules = tuple(rules)
        self.http = http
        self._captures = [Captures(rule.regex.encode()) for rule in self.rules]
        compiled: dict[tuple[int, ...], _Database] = {}
        self._transports = {
            protocol: _Transport(self.rules, protocol, compiled) for protocol in (_TCP, _UDP, _OTHER)
        }

    def match(self, payload: bytes | memoryview, protocol: int, sport: int, dport: int) -> tuple[Match, ...]:
        """All matches of one packet's payload, in the order of the rules."""
        return self.search(payload, protocol, sport, dport, self.http.matches(payload))

    def search(
        self, payload: bytes | memoryview, protocol: int, sport: int, dport: int, is_http: bool
    ) -> tuple[Match, ...]:
        """`match` for a caller that knows already whether the payload looks like HTTP."""
        transport = self._transports.get(protocol) or self._transports[_OTHER]
        if is_http:
            return self._search_http(transport, bytes(payload), sport, dport)
        hits = transport.plain.scan(payload)
        return self._matches({hit: _Subject(bytes(payload)) for hit in hits}, sport, dport) if hits else ()

    def _search_http(
        self, transport: _Transport, payload: bytes, sport: int, dport: int
    ) -> tuple[Match, ...]:
        subjects: dict[int, _Subject] = {}
        end = head_end(payload)
        for part, database in transport.http.items():
            raw = text = _Subject(payload, part, end)
            subjects.update(dict.fromkeys(database.scan(raw.text), raw))
            encoded = transport.encoded[part]
            for _ in range(2 if encoded else 0):
                text = text.decoded()
                for hit in encoded.scan(text.text):
                    subjects.setdefault(hit, text)
        return self._matches(subjects, sport, dport) if subjects else ()

    def _matches(self, subjects: dict[int, _Subject], sport: int, dport: int) -> tuple[Match, ...]:
        found = []
        for hit in sorted(subjects):
            rule = self.rules[hit]
            if rule.port in (0, sport, dport):
                match = subjects[hit].match(rule, self._captures[hit])
                if match:
                    found.append(match)
        return tuple(found)


_TCP, _UDP, _OTHER = 6, 17, -1


class _Transport:
    """The databases for packets of one transport protocol."""

    def __init__(
        self, rules: tuple[Rule, ...], protocol: int, compiled: dict[tuple[int, ...], _Database]
    ) -> None:
        chosen = {i: rule for i, rule in enumerate(rules) if rule.protocol in (None, protocol)}

        def database(*indexes: int) -> _Database:
            if indexes not in compiled:
                compiled[indexes] = _Database(rules, indexes)
            return compiled[indexes]

        self.plain = database(*(i for i, rule in chosen.items() if not rule.is_http))
        self.http = {
            part: database(
                *(
                    i
                    for i, rule in chosen.items()
                    if (rule.is_http and rule.part == part) or (not rule.is_http and part == "total")
                )
            )
            for part in _PARTS
        }
        self.encoded = {
            part: database(
                *(i for i, rule in chosen.items() if rule.is_http and rule.part == part and rule.decode)
            )
            for part in _PARTS
        }


class _Database:
    """A Hyperscan database over some of the rules."""

    def __init__(self, rules: tuple[Rule, ...], indexes: tuple[int, ...]) -> None:
        self._database: hyperscan.Database | None = None
        if indexes:
            self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
            self._database.compile(
                expressions=[rules[i].regex.encode() for i in indexes],
                ids=list(indexes),
                flags=[_FLAGS] * len(indexes),
            )

    def __bool__(self) -> bool:
        return self._database is not None

    def scan(self, text: bytes | memoryview) -> list[int]:
        """List the indexes of the rules that (may) hit."""
        hits: list[int] = []
        if self._database is not None:
            self._database.scan(text, _note, context=hits)  # type: ignore[type-var, arg-type]  # stubs
        return hits


def _note(index: int, _start: int, _end: int, _flags: int, hits: list[int]) -> None:
    hits.append(index)


class _Subject:
    """A text that rules see, and where its bytes stand in the payload."""

    def __init__(self, payload: bytes, part: str = "total", end: int = 0) -> None:
        self.offset = 0
        self.raw: _Subject | None = None
        self.text = payload
        if part == "head":
            self.text = payload[:end]
        elif part == "body":
            self.offset = end + 4
            self.text = payload[self.offset :]

    def decoded(self) -> _Subject:
        """Percent-decode the text once more."""
        decoded = _Subject(url_decode(self.text))
        decoded.raw = self
        return decoded

    def match(self, rule: Rule, captures: Captures) -> Match | None:
        """Return the match of a rule that Hyperscan saw hit, or None where it was wrong."""
        span = captures.find(self.text)
        if span is None:
            return None
        start, end, version = span.start, span.end, rule.version
        if span.group_start >= 0:
            start, end = span.group_start, span.group_end
            if version is None:
                version = self.text[start:end].decode("utf-8", "backslashreplace")
        return Match(rule, self._position(start), self._position(end), version)

    def _position(self, offset: int) -> int:
        if self.raw is None:
            return self.offset + offset
        return self.raw._position(int(raw_offsets(self.raw.text)[offset]))
