"""Classes in brackets, read exactly as PCRE reads them. Used when rules are loaded."""

from __future__ import annotations

from sensor.rules.regex.charset import ALL, ESCAPES, POSIX_CLASSES, either_case
from sensor.rules.regex.pattern_reader import PatternReader


def bracket_class(cursor: PatternReader, *, caseless: bool) -> frozenset[int]:
    """Read ``[…]``, whose bracket comes next, and return the bytes it matches."""
    return _Brackets(cursor, caseless).read()


class _Brackets:
    """One class being read."""

    def __init__(self, cursor: PatternReader, caseless: bool) -> None:
        self._cursor = cursor
        self._caseless = caseless
        self._literal = False
        """Inside ``\\Q…\\E``."""

    def read(self) -> frozenset[int]:
        """Read the class, brackets included."""
        cursor = self._cursor
        if self._posix_end() is not None:
            cursor.fail("a POSIX class inside brackets, as in [[:alpha:]]")
        cursor.take(b"[")
        negative = cursor.take(b"^")
        values: frozenset[int] = frozenset()
        self._skip_quotes()
        while True:  # a ] that comes first stands for itself
            values |= self._item()
            self._skip_quotes()
            if not self._literal and cursor.take(b"]"):
                return ALL - values if negative else values

    def _item(self) -> frozenset[int]:
        """Read one byte, range or named set."""
        end = self._posix_end()
        if end is not None:
            return self._posix(end)
        low = self._member()
        if isinstance(low, frozenset):
            return low
        self._skip_quotes()
        if self._literal or not self._cursor.take(b"-"):
            return self._cased(frozenset((low,)))
        self._skip_quotes()
        if not self._literal and self._cursor.ahead(b"]"):
            return self._cased(frozenset((low, ord("-"))))
        high = self._member() if self._posix_end() is None else frozenset[int]()
        if isinstance(high, frozenset) or high < low:
            self._cursor.fail("two bytes in order as the ends of a range")
        return self._cased(frozenset(range(low, high + 1)))

    def _cased(self, values: frozenset[int]) -> frozenset[int]:
        return either_case(values) if self._caseless else values

    def _skip_quotes(self) -> None:
        while True:
            if self._cursor.take(b"\\E"):
                self._literal = False
            elif self._literal or not self._cursor.take(b"\\Q"):
                return
            else:
                self._literal = True

    def _member(self) -> int | frozenset[int]:
        """Read one byte, or an escape that stands for a set."""
        byte = self._cursor.next("a ] for every [")
        if self._literal or byte != ord("\\"):
            return byte
        letter = self._cursor.next("a character behind the final backslash")
        if letter in ESCAPES:
            return ESCAPES[letter]
        if letter == ord("b"):
            return 8
        if letter in b"pPN":
            self._cursor.refuse(rf"\{chr(letter)} in brackets")
        return self._cursor.escaped_byte(letter, groups=None)

    def _posix_end(self) -> int | None:
        """Find where ``[:name:]``, ``[.x.]`` or ``[=x=]`` at the cursor closes, as PCRE's own check does."""
        pattern, at = self._cursor.pattern, self._cursor.at + 2
        kind = pattern[at - 1 : at]
        if self._literal or not self._cursor.ahead(b"[") or kind not in (b":", b".", b"="):
            return None
        while at < len(pattern):
            text = pattern[at : at + 2]
            if text == kind + b"]":
                return at
            if text == b"[" + kind or text[:1] == b"]":
                return None
            at += 2 if text in (b"\\]", b"\\\\") else 1
        return None

    def _posix(self, end: int) -> frozenset[int]:
        cursor = self._cursor
        name = cursor.pattern[cursor.at + 2 : end]
        negative, name = name.startswith(b"^"), name.removeprefix(b"^")
        if not cursor.ahead(b"[:") or name not in POSIX_CLASSES:
            cursor.fail(f"one of the POSIX classes {b', '.join(POSIX_CLASSES).decode()}")
        if self._caseless and name in (b"lower", b"upper"):
            name = b"alpha"
        cursor.at = end + 2
        return ALL - POSIX_CLASSES[name] if negative else POSIX_CLASSES[name]
