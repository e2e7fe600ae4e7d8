"""Constructs that PCRE knows and rules must not use, because deciding them takes backtracking.

Used when rules are loaded.
"""

from __future__ import annotations

UNSUPPORTED_ESCAPES = {
    "K": r"\K (a moved start)",
    "X": r"\X (a Unicode sequence)",
    "R": r"\R (an atomic line break; write (?:\r\n|\n) instead)",
    "p": r"\p (a Unicode property)",
    "P": r"\P (a Unicode property)",
    "g": r"\g (a backreference or subroutine)",
    "k": r"\k (a backreference)",
}
"""Names for error messages, by the letter after the backslash."""

UNSUPPORTED_GROUPS = {
    b">": "(?> (an atomic group)",
    b"|": "(?| (a branch reset)",
    b"(": "(?( (a condition)",
    b"R": "(?R (a recursion)",
    b"&": "(?& (a subroutine)",
    b"C": "(?C (a callout)",
    b"P=": "(?P= (a backreference)",
    b"P>": "(?P> (a subroutine)",
}
"""Names for error messages, by what follows ``(?``."""
