"""Read character classes in brackets exactly as PCRE reads them. Used when rules are loaded."""

from __future__ import annotations

from sensor.rules.regex.charset import ALL, ESCAPES, POSIX_CLASSES, either_case
from sensor.rules.regex.escapes import escaped_byte
from sensor.rules.regex.pattern_reader import PatternReader


def bracket_class(reader: PatternReader, *, caseless: bool) -> frozenset[int]:
    """Read ``[…]``, which comes next, and return the bytes it matches.

    Raises:
        RegexError: The class is malformed, or holds an unsupported escape.
    """
    return _Brackets(reader, caseless).read()


class _Brackets:
    """One class being read."""

    def __init__(self, reader: PatternReader, caseless: bool) -> None:
        self._reader = reader
        self._caseless = caseless
        self._literal = False
        """True inside ``\\Q…\\E``."""

    def read(self) -> frozenset[int]:
        """Read the class, brackets included."""
        reader = self._reader
        if self._posix_end() is not None:
            reader.fail("POSIX classes are allowed only inside brackets, as in [[:alpha:]]")
        reader.accept(b"[")
        negative = reader.accept(b"^")
        values: frozenset[int] = frozenset()
        self._skip_quotes()
        while True:  # a leading ] is literal
            values |= self._read_item()
            self._skip_quotes()
            if not self._literal and reader.accept(b"]"):
                return ALL - values if negative else values

    def _read_item(self) -> frozenset[int]:
        """Read one byte, range or named set."""
        end = self._posix_end()
        if end is not None:
            return self._read_posix(end)
        low = self._read_member()
        if isinstance(low, frozenset):
            return low
        self._skip_quotes()
        if self._literal or not self._reader.accept(b"-"):
            return self._cased(frozenset((low,)))
        self._skip_quotes()
        if not self._literal and self._reader.looking_at(b"]"):
            return self._cased(frozenset((low, ord("-"))))
        high = self._read_member() if self._posix_end() is None else frozenset[int]()
        if isinstance(high, frozenset) or high < low:
            self._reader.fail("invalid range; its ends must be two bytes, the lower one first")
        return self._cased(frozenset(range(low, high + 1)))

    def _cased(self, values: frozenset[int]) -> frozenset[int]:
        return either_case(values) if self._caseless else values

    def _skip_quotes(self) -> None:
        while True:
            if self._reader.accept(b"\\E"):
                self._literal = False
            elif self._literal or not self._reader.accept(b"\\Q"):
                return
            else:
                self._literal = True

    def _read_member(self) -> int | frozenset[int]:
        """Read one byte, or an escape that stands for a set of bytes."""
        byte = self._reader.read_byte("missing ]")
        if self._literal or byte != ord("\\"):
            return byte
        letter = self._reader.read_byte("\\ at the end of the expression")
        if letter in ESCAPES:
            return ESCAPES[letter]
        if letter == ord("b"):
            return 8
        if letter in b"pPN":
            self._reader.refuse(rf"\{chr(letter)} in brackets")
        return escaped_byte(self._reader, letter, groups=None)

    def _posix_end(self) -> int | None:
        """Return where ``[:name:]``, ``[.x.]`` or ``[=x=]`` closes, found as PCRE finds it.

        None if none of them comes next.
        """
        pattern, at = self._reader.pattern, self._reader.position + 2
        kind = pattern[at - 1 : at]
        if self._literal or not self._reader.looking_at(b"[") or kind not in (b":", b".", b"="):
            return None
        while at < len(pattern):
            text = pattern[at : at + 2]
            if text == kind + b"]":
                return at
            if text == b"[" + kind or text[:1] == b"]":
                return None
            at += 2 if text in (b"\\]", b"\\\\") else 1
        return None

    def _read_posix(self, end: int) -> frozenset[int]:
        reader = self._reader
        name = reader.pattern[reader.position + 2 : end]
        negative, name = name.startswith(b"^"), name.removeprefix(b"^")
        if not reader.looking_at(b"[:") or name not in POSIX_CLASSES:
            reader.fail(f"unknown POSIX class; expected one of {b', '.join(POSIX_CLASSES).decode()}")
        if self._caseless and name in (b"lower", b"upper"):
            name = b"alpha"
        reader.position = end + 2
        return ALL - POSIX_CLASSES[name] if negative else POSIX_CLASSES[name]
