"""A regular expression's text, read from left to right. Used when rules are loaded."""

from __future__ import annotations

from typing import NoReturn

from sensor.rules.regex.charset import DIGITS
from sensor.rules.regex.tree import RegexError


class PatternReader:
    """Reads a pattern from left to right. Every error names the byte at which it was found."""

    def __init__(self, pattern: bytes) -> None:
        self.pattern = pattern
        self.position = 0

    @property
    def is_at_end(self) -> bool:
        """True if nothing is left to read."""
        return self.position >= len(self.pattern)

    @property
    def rest(self) -> tuple[bytes, int]:
        """The pattern, and the position of what is left to read."""
        return self.pattern, self.position

    def fail(self, problem: str) -> NoReturn:
        """Raise `RegexError`, with the position added to the problem."""
        raise RegexError(f"at byte {self.position}: {problem}")

    def refuse(self, construct: str) -> NoReturn:
        """Raise `RegexError` for a construct that PCRE knows but no linear-time engine can decide."""
        self.fail(f"{construct} is not supported")

    def looking_at(self, text: bytes) -> bool:
        """Return True if ``text`` comes next."""
        return self.pattern.startswith(text, self.position)

    def accept(self, text: bytes) -> bool:
        """Read ``text`` if it comes next; return True if it did."""
        found = self.looking_at(text)
        self.position += len(text) if found else 0
        return found

    def read_byte(self, problem: str) -> int:
        """Read the next byte; if there is none, fail with ``problem``."""
        if self.is_at_end:
            self.fail(problem)
        self.position += 1
        return self.pattern[self.position - 1]

    def read_while(self, allowed: frozenset[int], most: int) -> bytes:
        """Read up to ``most`` bytes, as long as they are in the set."""
        start, limit = self.position, min(len(self.pattern), self.position + most)
        while self.position < limit and self.pattern[self.position] in allowed:
            self.position += 1
        return self.pattern[start : self.position]

    def read_until(self, closing: bytes, problem: str) -> bytes:
        """Read up to and including ``closing``, and return what precedes it.

        If ``closing`` does not follow, fail with ``problem``.
        """
        end = self.pattern.find(closing, self.position)
        if end < 0:
            self.fail(problem)
        text = self.pattern[self.position : end]
        self.position = end + len(closing)
        return text

    def read_digits(self) -> bytes:
        """Read all decimal digits that come next."""
        return self.read_while(DIGITS, len(self.pattern))
