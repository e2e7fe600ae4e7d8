"""Options set inside an expression, such as ``(?i-m)``. Used when rules are loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sensor.rules.regex.charset import DIGITS
from sensor.rules.regex.pattern_reader import PatternReader


@dataclass(frozen=True)
class Options:
    """The options that ``(?imsxU)`` sets, by PCRE's letters; the defaults are those of a rule."""

    i: bool = True
    m: bool = False
    s: bool = False
    x: bool = False
    U: bool = False


def read_options(reader: PatternReader, options: Options) -> Options:
    """Read option letters up to the ``)`` or ``:`` that follows, and return the changed options.

    Raises:
        RegexError: A letter is not an option.
    """
    on = True
    while not (reader.looking_at(b")") or reader.looking_at(b":")):
        letter = chr(reader.read_byte("missing )"))
        if letter == "-" and not (
            reader.position < len(reader.pattern) and reader.pattern[reader.position] in DIGITS
        ):
            on = False
        elif letter in "imsxU":
            options = replace(options, **{letter: on})
        elif letter.isdigit() or letter in "+-":
            reader.refuse("a subroutine (?n)")
        else:
            reader.fail(f"unknown option {letter}; expected one of imsxU")
    return options
