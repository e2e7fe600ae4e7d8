"""Escapes that stand for one byte, read exactly as PCRE reads them. Used when rules are loaded."""

from __future__ import annotations

from sensor.rules.regex.charset import DIGITS, HEX_DIGITS, LOWER
from sensor.rules.regex.pattern_reader import PatternReader

_CONTROLS = {ord(letter): byte for letter, byte in zip("aefnrt", b"\a\x1b\f\n\r\t", strict=True)}
_OCTAL_DIGITS = frozenset(b"01234567")


def escaped_byte(reader: PatternReader, letter: int, groups: int | None) -> int:
    """Return the byte that an escape stands for; its backslash and ``letter`` have been read.

    ``groups`` is the number of capturing groups opened so far: an escape that looks like a
    backreference to one of them is refused. Pass None in brackets, where PCRE has no backreferences.

    Raises:
        RegexError: The escape is malformed, or not supported.
    """
    if letter in _CONTROLS:
        return _CONTROLS[letter]
    if letter in DIGITS:
        reader.position -= 1
        return _octal(reader, groups)
    match chr(letter):
        case "x" if reader.accept(b"{"):
            return _braced_number(reader, reader.read_until(b"}", r"missing } after \x{"), 16)
        case "x":
            return int(reader.read_while(HEX_DIGITS, 2) or b"0", 16)
        case "o" if reader.accept(b"{"):
            return _braced_number(reader, reader.read_until(b"}", r"missing } after \o{"), 8)
        case "o":
            reader.fail(r"missing { after \o")
        case "c":
            return _control(reader)
        case "l" | "L" | "u" | "U":
            reader.fail(rf"PCRE does not support \{chr(letter)}")
    return letter


def _octal(reader: PatternReader, groups: int | None) -> int:
    start = reader.position
    number = int(reader.read_digits()[:9])
    if groups is not None and reader.pattern[start] != ord("0") and (number < 10 or number <= groups):
        reader.position = start - 1
        reader.refuse(rf"\{number} (a backreference)")
    reader.position = start
    if reader.pattern[start] not in _OCTAL_DIGITS:
        return reader.read_byte("missing digit")
    value = int(reader.read_while(_OCTAL_DIGITS, 3), 8)
    if value > 255:
        reader.fail("octal number above 377")
    return value


def _braced_number(reader: PatternReader, digits: bytes, base: int) -> int:
    try:
        value = int(digits, base)
    except ValueError:
        value = -1
    if not digits.isalnum() or not 0 <= value <= 255:
        reader.fail(f"the braces must hold a number in base {base} that fits in one byte")
    return value


def _control(reader: PatternReader) -> int:
    byte = reader.read_byte(r"\c at the end of the expression")
    if byte > 127:
        reader.fail(r"\c must be followed by an ASCII character")
    return (byte ^ 0x20 if byte in LOWER else byte) ^ 0x40
