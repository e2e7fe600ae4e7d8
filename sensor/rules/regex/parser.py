"""Parse a rule's expression into a syntax tree, exactly as PCRE reads it: on bytes, and caseless.

Reference: pcrepattern(3) of PCRE 8.39. Constructs that only a backtracking engine can decide are
refused by name. Used when rules are loaded.
"""

from __future__ import annotations

import re
from functools import cache

from sensor.rules.regex.brackets import bracket_class
from sensor.rules.regex.charset import ALL, DIGITS, ESCAPES, NOT_NEWLINE, SPACES, WORDS, either_case
from sensor.rules.regex.escapes import escaped_byte
from sensor.rules.regex.inline_options import Options, read_options
from sensor.rules.regex.pattern_reader import PatternReader
from sensor.rules.regex.tree import (
    NOTHING,
    Bytes,
    Choice,
    Group,
    Look,
    Node,
    Position,
    RegexError,
    Repeat,
    Sequence,
    check_extent,
    choice,
    fixed_length,
    sequence,
)
from sensor.rules.regex.unsupported import UNSUPPORTED_ESCAPES, UNSUPPORTED_GROUPS

DOLLAR = Look(
    Choice((Position.END, Sequence((Bytes(frozenset(b"\n")), Position.END)))), ahead=True, positive=True
)
"""``$`` and ``\\Z``: the end of the text, or before a final newline."""

MULTILINE_START = Sequence((Position.LINE_START, Look(Position.END, ahead=True, positive=False)))
"""``^`` with ``(?m)``: the start of a line, but not the end of the text after a final newline."""

_POSITIONS: dict[str, Node] = {
    "A": Position.START,
    "G": Position.START,
    "z": Position.END,
    "Z": DOLLAR,
    "b": Position.WORD,
    "B": Position.NOT_WORD,
}

_LOOKS = ((b"=", True, True), (b"!", True, False), (b"<=", False, True), (b"<!", False, False))

MOST_BYTES = 16_000
"""Longest pattern; that of Hyperscan, in which letters are spelled as classes, is the same."""
_REPEAT_LIMIT = 65535
_DEPTH_LIMIT = 100


_PLAIN = re.compile(rb"[\w !\"%&',/:;<=>@~-]+(?![*+?{\\(])")
"""Bytes that stand for themselves. The last one is not repeated, also not after a comment or ``\\E``."""


def parse(pattern: bytes) -> Node:
    """Parse a PCRE expression, with PCRE_CASELESS set.

    Raises:
        RegexError: The pattern is not a PCRE expression, or needs backtracking: backreferences,
            recursion, conditions, atomic groups, possessive repeats, callouts, verbs. Or it is too
            large, or too deep.
    """
    if len(pattern) > MOST_BYTES:
        raise RegexError(
            f"the expression has {len(pattern):,} bytes ({MOST_BYTES:,} are allowed); split it into rules"
        )
    return _Parser(pattern).parse()


class _Parser:
    """A recursive-descent parser over the pattern's bytes."""

    def __init__(self, pattern: bytes) -> None:
        self._reader = PatternReader(pattern)
        self._options = Options()
        self._groups = 0
        self._names: set[bytes] = set()
        self._depth = 0
        self._literal = False
        """True inside ``\\Q…\\E``."""

    def parse(self) -> Node:
        """Parse the whole pattern."""
        tree = self._parse_choice()
        if not self._reader.is_at_end:
            self._reader.fail("unmatched )")
        check_extent(tree)
        return tree

    def _parse_choice(self) -> Node:
        """Parse up to a closing parenthesis or the end. Options set inside do not apply after it."""
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            self._reader.fail(f"groups are nested more than {_DEPTH_LIMIT} deep")
        options = self._options
        branches = [self._parse_sequence()]
        while self._reader.accept(b"|"):
            branches.append(self._parse_sequence())
        self._options = options
        self._depth -= 1
        return choice(*branches)

    def _parse_sequence(self) -> Node:
        nodes: list[Node] = []
        while True:
            self._skip_ignored()
            ends = not self._literal and (self._reader.looking_at(b"|") or self._reader.looking_at(b")"))
            if ends or self._reader.is_at_end:
                return sequence(*nodes)
            plain = None if self._literal or self._options.x else _PLAIN.match(*self._reader.rest)
            if plain:
                self._reader.position = plain.end()
                nodes += [_single_byte(byte, self._options.i) for byte in plain[0]]
            else:
                nodes.append(self._parse_repeat(*self._parse_atom()))

    def _skip_ignored(self) -> None:
        r"""Skip ``\Q``, ``\E``, comments, and with ``(?x)`` white space."""
        reader = self._reader
        while True:
            if reader.accept(b"\\E"):
                self._literal = False
            elif self._literal:
                return
            elif reader.accept(b"\\Q"):
                self._literal = True
            elif reader.accept(b"(?#"):
                reader.read_until(b")", "missing ) after the comment")
            elif not (self._options.x and self._skip_extended()):
                return

    def _skip_extended(self) -> bool:
        """Skip white space and a comment of ``(?x)``; return True if there was any."""
        reader, start = self._reader, self._reader.position
        reader.read_while(SPACES, len(reader.pattern))
        if reader.accept(b"#"):
            end = reader.pattern.find(b"\n", reader.position)
            reader.position = len(reader.pattern) if end < 0 else end + 1
        return reader.position > start

    def _parse_repeat(self, node: Node, repeatable: bool) -> Node:
        self._skip_ignored()
        bounds = None if self._literal else self._read_bounds()
        if bounds is None:
            return node
        if not repeatable:
            self._reader.fail("what precedes the repeat cannot be repeated")
        if self._options.x:
            self._skip_extended()
        greedy = self._reader.accept(b"?") == self._options.U
        if self._reader.looking_at(b"+"):
            self._reader.refuse("a possessive repeat")
        return Repeat(node, *bounds, greedy)

    def _read_bounds(self) -> tuple[int, int | None] | None:
        """Read ``*``, ``+``, ``?`` or ``{n,m}``; braces that hold anything else are literal text."""
        reader = self._reader
        for text, bounds in ((b"*", (0, None)), (b"+", (1, None)), (b"?", (0, 1))):
            if reader.accept(text):
                return bounds
        start = reader.position
        if reader.accept(b"{"):
            least = reader.read_digits()
            most = reader.read_digits() if reader.accept(b",") else least
            if least and reader.accept(b"}"):
                return self._checked_bounds(int(least[:6]), int(most[:6]) if most else None)
            reader.position = start
        return None

    def _checked_bounds(self, least: int, most: int | None) -> tuple[int, int | None]:
        if max(least, most or 0) > _REPEAT_LIMIT:
            self._reader.fail(f"repeat count above {_REPEAT_LIMIT}")
        if most is not None and most < least:
            self._reader.fail("repeat counts out of order")
        return least, most

    def _parse_atom(self) -> tuple[Node, bool]:
        """Parse one item; return it, and True if a repeat may follow it."""
        reader = self._reader
        byte = reader.pattern[reader.position]
        if not self._literal:
            if self._read_bounds() is not None:
                reader.fail("nothing to repeat")
            if byte == ord("["):
                return Bytes(bracket_class(reader, caseless=self._options.i)), True
        reader.position += 1
        match "" if self._literal else chr(byte):
            case "\\":
                return self._parse_escape()
            case "(":
                return self._parse_group()
            case ".":
                return Bytes(ALL if self._options.s else NOT_NEWLINE), True
            case "^":
                return (MULTILINE_START if self._options.m else Position.START), False
            case "$":
                return (Position.LINE_END if self._options.m else DOLLAR), False
        return _single_byte(byte, self._options.i), True

    def _parse_escape(self) -> tuple[Node, bool]:
        reader = self._reader
        letter = reader.read_byte("\\ at the end of the expression")
        name = chr(letter)
        if name in UNSUPPORTED_ESCAPES:
            reader.position -= 2
            reader.refuse(UNSUPPORTED_ESCAPES[name])
        if name in _POSITIONS:
            return _POSITIONS[name], False
        if letter in ESCAPES:
            return Bytes(ESCAPES[letter]), True
        if name == "N":
            return self._parse_not_newline(), True
        if name == "C":
            return Bytes(ALL), True
        return _single_byte(escaped_byte(reader, letter, self._groups), self._options.i), True

    def _parse_not_newline(self) -> Node:
        start = self._reader.position
        if self._reader.looking_at(b"{") and self._read_bounds() is None:
            self._reader.fail(r"PCRE does not support \N{name}")
        self._reader.position = start
        return Bytes(NOT_NEWLINE)

    def _parse_group(self) -> tuple[Node, bool]:
        """Parse what follows an opening parenthesis."""
        reader = self._reader
        if reader.looking_at(b"*"):
            reader.refuse("a verb (*…)")
        if not reader.accept(b"?"):
            return self._parse_capture(), True
        for start, construct in UNSUPPORTED_GROUPS.items():
            if reader.looking_at(start):
                reader.refuse(construct)
        if reader.accept(b":"):
            return self._parse_to_closing(), True
        for start, ahead, positive in _LOOKS:
            if reader.accept(start):
                return self._parse_look(ahead, positive), False
        for start, end in ((b"P<", b">"), (b"<", b">"), (b"'", b"'")):
            if reader.accept(start):
                return self._parse_named_capture(end), True
        return self._parse_options()

    def _parse_to_closing(self) -> Node:
        node = self._parse_choice()
        if not self._reader.accept(b")"):
            self._reader.fail("missing )")
        return node

    def _parse_capture(self) -> Node:
        self._groups += 1
        number = self._groups
        return Group(number, self._parse_to_closing())

    def _parse_named_capture(self, end: bytes) -> Node:
        name = self._reader.read_until(end, f"missing {end.decode()} after the group name")
        if not name or not set(name) <= WORDS or name[0] in DIGITS or len(name) > 32 or name in self._names:
            self._reader.fail(
                "invalid or duplicate group name: use up to 32 letters, digits or _, not a digit first"
            )
        self._names.add(name)
        return self._parse_capture()

    def _parse_look(self, ahead: bool, positive: bool) -> Node:
        before = self._groups
        node = self._parse_to_closing()
        if positive and before == 0 and self._groups:
            self._reader.refuse("a first capturing group inside a lookaround")
        branches = node.nodes if isinstance(node, Choice) else (node,)
        if not ahead and None in map(fixed_length, branches):
            self._reader.fail("each alternative of a lookbehind must have a fixed length")
        if self._read_bounds() is not None:
            self._reader.refuse("a repeated lookaround")
        return Look(node, ahead, positive)

    def _parse_options(self) -> tuple[Node, bool]:
        """Parse ``(?i-m)``, which applies to the end of the enclosing group, or ``(?i-m:…)``."""
        options = read_options(self._reader, self._options)
        if self._reader.accept(b")"):
            self._options = options
            return NOTHING, False
        self._reader.accept(b":")
        outer, self._options = self._options, options
        node = self._parse_to_closing()
        self._options = outer
        return node, True


@cache
def _single_byte(byte: int, caseless: bool) -> Bytes:
    values = frozenset((byte,))
    return Bytes(either_case(values) if caseless else values)
