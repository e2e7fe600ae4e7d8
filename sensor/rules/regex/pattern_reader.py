"""A place in a pattern that is being read, and the escapes that stand for one byte.

Used when rules are loaded.
"""

from __future__ import annotations

from typing import NoReturn

from sensor.rules.regex.charset import DIGITS, HEX_DIGITS, LOWER
from sensor.rules.regex.tree import RegexError

_CONTROLS = {ord(letter): byte for letter, byte in zip("aefnrt", b"\a\x1b\f\n\r\t", strict=True)}
_OCTAL_DIGITS = frozenset(b"01234567")


class PatternReader:
    """Reads a pattern from left to right; every error names the byte it is at."""

    def __init__(self, pattern: bytes) -> None:
        self.pattern = pattern
        self.at = 0

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        return self.at >= len(self.pattern)

    def fail(self, expected: str) -> NoReturn:
        """Raise `RegexError`."""
        raise RegexError(f"{expected}, at byte {self.at} of the expression")

    def refuse(self, construct: str) -> NoReturn:
        """Raise `RegexError` for what PCRE knows but no linear engine can decide."""
        self.fail(f"an expression without {construct}")

    def ahead(self, text: bytes) -> bool:
        """Whether ``text`` comes next."""
        return self.pattern.startswith(text, self.at)

    def take(self, text: bytes) -> bool:
        """Take ``text`` where it comes next, and return whether it did."""
        found = self.ahead(text)
        self.at += len(text) if found else 0
        return found

    def next(self, expected: str) -> int:
        """Take the next byte; ``expected`` is the complaint where there is none."""
        if self.is_at_end:
            self.fail(expected)
        self.at += 1
        return self.pattern[self.at - 1]

    def take_while(self, allowed: frozenset[int], most: int) -> bytes:
        """Take up to ``most`` bytes out of a set."""
        start, limit = self.at, min(len(self.pattern), self.at + most)
        while self.at < limit and self.pattern[self.at] in allowed:
            self.at += 1
        return self.pattern[start : self.at]

    def take_until(self, closing: bytes, expected: str) -> bytes:
        """Take all up to ``closing``, and that too; ``expected`` is the complaint where it is missing."""
        end = self.pattern.find(closing, self.at)
        if end < 0:
            self.fail(expected)
        text = self.pattern[self.at : end]
        self.at = end + len(closing)
        return text

    def number(self) -> bytes:
        """Take decimal digits, as many as there are."""
        return self.take_while(DIGITS, len(self.pattern))

    def escaped_byte(self, letter: int, groups: int | None) -> int:
        """Return the byte that an escape stands for, whose ``letter`` behind the backslash is taken.

        ``groups`` is the number of capturing groups opened so far: what looks like a backreference
        to one of them is refused. None in brackets, where there are no backreferences.
        """
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter in DIGITS:
            self.at -= 1
            return self._octal(groups)
        match chr(letter):
            case "x" if self.take(b"{"):
                return self._in_base(self.take_until(b"}", r"a } behind \x{"), 16)
            case "x":
                return int(self.take_while(HEX_DIGITS, 2) or b"0", 16)
            case "o" if self.take(b"{"):
                return self._in_base(self.take_until(b"}", r"a } behind \o{"), 8)
            case "o":
                self.fail(r"a { behind \o")
            case "c":
                return self._control()
            case "l" | "L" | "u" | "U":
                self.fail(rf"no \{chr(letter)}, which PCRE does not know")
        return letter

    def _octal(self, groups: int | None) -> int:
        start = self.at
        number = int(self.number()[:9])
        if groups is not None and self.pattern[start] != ord("0") and (number < 10 or number <= groups):
            self.at = start - 1
            self.refuse(rf"\{number} (a backreference)")
        self.at = start
        if self.pattern[start] not in _OCTAL_DIGITS:
            return self.next("a digit")
        value = int(self.take_while(_OCTAL_DIGITS, 3), 8)
        if value > 255:
            self.fail("an octal number of no more than 377")
        return value

    def _in_base(self, digits: bytes, base: int) -> int:
        try:
            value = int(digits, base)
        except ValueError:
            value = -1
        if not digits.isalnum() or not 0 <= value <= 255:
            self.fail(f"a number to base {base} that fits in one byte")
        return value

    def _control(self) -> int:
        byte = self.next(r"a character behind \c")
        if byte > 127:
            self.fail(r"an ASCII character behind \c")
        return (byte ^ 0x20 if byte in LOWER else byte) ^ 0x40
