"""The sets of bytes that PCRE's escapes and POSIX classes match, in its default "C" tables.

Used when rules are loaded.
"""

from __future__ import annotations

ALL = frozenset(range(256))
LOWER = frozenset(b"abcdefghijklmnopqrstuvwxyz")
UPPER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
LETTERS = LOWER | UPPER
DIGITS = frozenset(b"0123456789")
HEX_DIGITS = frozenset(b"0123456789ABCDEFabcdef")
WORDS = LETTERS | DIGITS | frozenset(b"_")
SPACES = frozenset(b"\t\n\v\f\r ")
NOT_NEWLINE = ALL - frozenset(b"\n")

_BLANKS = frozenset(b"\t \xa0")
_LINE_BREAKS = frozenset(b"\n\v\f\r\x85")
_GRAPHIC = frozenset(range(0x21, 0x7F))

ESCAPES = {
    ord(name): values
    for name, values in (
        ("d", DIGITS),
        ("D", ALL - DIGITS),
        ("h", _BLANKS),
        ("H", ALL - _BLANKS),
        ("s", SPACES),
        ("S", ALL - SPACES),
        ("v", _LINE_BREAKS),
        ("V", ALL - _LINE_BREAKS),
        ("w", WORDS),
        ("W", ALL - WORDS),
    )
}
"""Bytes that ``\\d`` and the like match, by letter."""

POSIX_CLASSES = {
    b"alpha": LETTERS,
    b"lower": LOWER,
    b"upper": UPPER,
    b"alnum": LETTERS | DIGITS,
    b"ascii": frozenset(range(128)),
    b"blank": frozenset(b"\t "),
    b"cntrl": frozenset(range(32)) | {127},
    b"digit": DIGITS,
    b"graph": _GRAPHIC,
    b"print": _GRAPHIC | {32},
    b"punct": _GRAPHIC - LETTERS - DIGITS,
    b"space": SPACES,
    b"word": WORDS,
    b"xdigit": HEX_DIGITS,
}
"""Bytes that ``[:name:]`` matches inside brackets, by name."""


def either_case(values: frozenset[int]) -> frozenset[int]:
    """Return the set with the other case of each letter added."""
    return values | {value ^ 0x20 for value in values & LETTERS}
