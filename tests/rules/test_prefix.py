"""The prefixes of rules are as exact as they should be; test_plan_law.py checks that they hide nothing."""

from __future__ import annotations

import pytest

from sensor.model import Rule
from sensor.rules.engine.http_payload import LY_PROBE
from sensor.rules.files.describe import prefix_words
from sensor.rules.prefilter.prefix import Prefix, prefixes, word_of
from sensor.rules.prefilter.prefix_set import PrefixSet

ANY = "anything"
HTTP = ["GET\\x20/ of 11 bytes or more", "HTTP/1 of 11 bytes or more", "POST\\x20/ of 11 bytes or more"]


def prefixes_of(regex: str, **fields: object) -> list[str]:
    """Return the prefixes of one rule as text."""
    rule = Rule(1, "service", "t", "n", regex, **fields)  # type: ignore[arg-type]
    return sorted(map(prefix_words, PrefixSet(prefixes(rule, LY_PROBE))))


@pytest.mark.parametrize(
    ("regex", "expected"),
    [
        (r"^SSH-2", [r"(?i:ssh)\-2"]),
        (r"(?-i)^SSH", ["SSH"]),
        (r"^\x00\xff", [r"\x00\xff"]),
        (r"^longer than a word", [r"(?i:longer)\x20(?i:t) of 18 bytes or more"]),
        (r"^(?:ab|cd)x", ["(?i:abx)", "(?i:cdx)"]),
        (r"^a?1", ["(?i:a)1", "1"]),
        (r"^a{0,2}1", ["(?i:a)1", "(?i:aa)1", "1"]),
        (r"^[\x00-\x03][\x81-\x85]", [r"[\x00-\x03][\x80-\x87]"]),
        (r"^[\x01\x42]2", [r"\x012", "(?i:b)2"]),
        (r"^[\x00-\xff]{2}1", ["..1"]),
        (r"^1[\x00-\xff]*2", ["1 of 2 bytes or more"]),
        (r"^(?=12)1[0-9]", [r"12"]),
        (r"^(?!12)1[23]", ["13"]),
        (r"^[\x00-\xff]{8}1", ["anything of 9 bytes or more"]),
        (r"anywhere", ["anything of 8 bytes or more"]),
        (r"^a|b", [ANY]),
        (r"(?m)^a", [ANY]),
    ],
)
def test_prefixes_of_a_regex(regex: str, expected: list[str]) -> None:
    """The first bytes of an anchored regex, and the least length."""
    assert prefixes_of(regex) == sorted(expected)


@pytest.mark.parametrize(
    ("regex", "fields", "expected"),
    [
        ("anywhere", {}, HTTP),
        ("^GET /a", {}, ["GET\\x20/(?i:a) of 11 bytes or more"]),
        ("^SSH", {}, []),
        ("^SSH", {"part": "body"}, HTTP),
        ("^GET /a", {"decode": "url"}, HTTP),
        (
            "^[A-Z]+ /a",
            {"part": "head"},
            ["GET\\x20/(?i:a) of 11 bytes or more", "POST\\x20/(?i:a) of 11 bytes or more"],
        ),
    ],
)
def test_prefixes_of_an_http_rule(regex: str, fields: dict[str, str], expected: list[str]) -> None:
    """The beginnings of HTTP, joined with the rule's own if its part starts with the payload."""
    assert prefixes_of(regex, is_http=True, **fields) == sorted(expected)


def test_a_set_drops_covered_prefixes() -> None:
    """A prefix with more bytes or a greater length is covered."""
    wide, other = Prefix(0x41, 0xFF, 2), Prefix(0x42, 0xFF, 1)
    found = PrefixSet([Prefix(0x4241, 0xFFFF, 2), wide, Prefix(0x41, 0xFF, 4), other])
    assert found == PrefixSet([wide, other])
    assert found.without(PrefixSet([Prefix(0x40, 0xF0, 2)])) == PrefixSet([other])


@pytest.mark.parametrize(
    ("payload", "fits"),
    [(b"AB", True), (b"A", False), (b"BB", False), (b"A\0\0\0\0\0\0\0rest", True), (b"", False)],
)
def test_payloads_that_a_set_fits(payload: bytes, fits: bool) -> None:
    """The bytes and the length must fit."""
    assert PrefixSet([Prefix(0x41, 0xFF, 2)]).fits(word_of(payload), len(payload)) == fits
