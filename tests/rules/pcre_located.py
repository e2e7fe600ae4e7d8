"""The match of a rule in a payload according to PCRE, in each text that the rule has to see."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from sensor.model import Match, Rule
from sensor.rules.engine.http_payload import HttpReading, head_end
from tests.rules.pcre_oracle import Pcre

_HEX = b"0123456789abcdefABCDEF"

Text = tuple[bytes, list[int]]
"""A text, and where each of its bytes, and its end, are in the payload."""

_pcre = cache(Pcre)


def pcre_match(rule: Rule, payload: bytes, http: HttpReading) -> Match | None:
    """Return the first match in the first text that has one, or None.

    Raises:
        MatchLimitError: PCRE gave up.
    """
    for text, offsets in texts(rule, payload, http):
        found = _pcre(rule.regex.encode()).spans(text)
        if found:
            whole, group = found
            start, end = group or whole
            version = text[start:end].decode("utf-8", "backslashreplace") if group else None
            return Match(
                rule, offsets[start], offsets[end], version if rule.version is None else rule.version
            )
    return None


def texts(rule: Rule, payload: bytes, http: HttpReading) -> Iterator[Text]:
    """Yield the texts that the rule has to see, in their order."""
    start, end = 0, len(payload)
    if rule.is_http:
        if not http.matches(payload):
            return
        if rule.part == "head":
            end = head_end(payload)
        elif rule.part == "body":
            start = min(head_end(payload) + 4, end)
    text = payload[start:end], list(range(start, end + 1))
    yield text
    for _ in range(2 if rule.is_http and rule.decode else 0):
        text = _decoded(text)
        yield text


def _decoded(text: Text) -> Text:
    content, offsets = text
    decoded, places = bytearray(), []
    at = 0
    while at < len(content):
        places.append(offsets[at])
        digits = content[at + 1 : at + 3]
        if content[at] == ord("%") and len(digits) == 2 and all(digit in _HEX for digit in digits):
            decoded.append(int(digits, 16))
            at += 3
        else:
            decoded.append(ord(" ") if content[at] == ord("+") else content[at])
            at += 1
    return bytes(decoded), [*places, offsets[-1]]
