"""Texts that may cost a matcher much: what rules look for, and what nearly matches.

Runs in ``sensor bench match``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from sensor.model import Rule
from sensor.rules.engine.expression import expression
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.witness import witness_texts
from sensor.rules.regex.literals import required

RULES = 2000
"""The most rules whose texts are tried; of more, some are chosen."""
EACH = 4
"""Witness texts tried per rule."""
_EDGES = (b"%", b"+", b"%25", b"%2525", b"\r\n", b"\r\n\r\n", b"\r\n\r", b" ", b"a", b"\0", b"'", b"../")
_REQUESTS = (b"%s/?%%2525=", b"%s/?%%2525 HTTP/1.1\r\n\r\n", b"%s/?%%2525 HTTP/1.1\r\nHost: ")
"""Beginnings of requests that have to be decoded twice."""


def costly_texts(rules: Sequence[Rule], protocol: int, rng: Random, *, is_http: bool) -> list[bytes]:
    """Return texts for payloads of a protocol, each once, in an order that does not depend on the rules."""
    wanted = [one for one in rules if one.protocol in (None, protocol) and (is_http or not one.is_http)]
    found = list(_EDGES)
    for rule in rng.sample(wanted, min(RULES, len(wanted))):
        tree = expression(rule.regex).tree
        texts = witness_texts(tree)
        for text in rng.sample(texts, min(EACH, len(texts))):
            found += near_misses(text, rng)
        found += [bytes(map(min, literal)) for literals in required(tree) for literal in literals]
    if is_http:
        found += [text for one in found[len(_EDGES) :: 3] for text in (encoded(one), encoded(encoded(one)))]
    unique = sorted({text for text in found if text})
    rng.shuffle(unique)
    return unique


def near_misses(text: bytes, rng: Random) -> Iterator[bytes]:
    """Yield the text, and the text with a byte missing at either end or changed."""
    yield text
    yield text[:-1]
    yield text[1:]
    if len(text) > 2:
        at = rng.randrange(len(text))
        yield text[:at] + b"\0" + text[at + 1 :]


def encoded(text: bytes) -> bytes:
    """Return the text percent-encoded, the percent signs of an earlier encoding alone."""
    if b"%" in text:
        return text.replace(b"%", b"%25")
    return b"".join(b"%%%02x" % byte for byte in text)


def beginnings(http: HttpReading, *, is_http: bool) -> list[bytes]:
    """Return beginnings of payloads, which do or do not look like HTTP."""
    if not is_http:
        return [b""]
    requests = [one for one in http.beginnings if not one.startswith(b"HTTP/")][:2]
    found = [form % one.removesuffix(b"/") for one in requests for form in _REQUESTS]
    return [*found, b"HTTP/1.1 200 OK\r\nLocation: %2525\r\nServer: "]
