"""PCRE syntax to a syntax tree: reads a rule's expression exactly as PCRE reads it, on bytes and caseless.

Reference: pcrepattern(3) of PCRE 8.39. What only a backtracking engine could decide is refused
and named. Used when rules are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sensor.rules.regex.brackets import bracket_class
from sensor.rules.regex.charset import ALL, DIGITS, ESCAPES, NOT_NEWLINE, SPACES, WORDS, either_case
from sensor.rules.regex.pattern_reader import PatternReader
from sensor.rules.regex.tree import (
    NOTHING,
    Bytes,
    Choice,
    Group,
    Look,
    Node,
    Position,
    Repeat,
    Sequence,
    choice,
    lengths,
    sequence,
)

DOLLAR = Look(
    Choice((Position.END, Sequence((Bytes(frozenset(b"\n")), Position.END)))), ahead=True, positive=True
)
"""``$`` and ``\\Z``: the end, or a final newline ahead."""

MULTILINE_START = Sequence((Position.LINE_START, Look(Position.END, ahead=True, positive=False)))
"""``^`` with ``(?m)``: not behind a final newline."""

_PLACES: dict[str, Node] = {
    "A": Position.START,
    "G": Position.START,
    "z": Position.END,
    "Z": DOLLAR,
    "b": Position.WORD,
    "B": Position.NOT_WORD,
}

_LOOKS = ((b"=", True, True), (b"!", True, False), (b"<=", False, True), (b"<!", False, False))

_REFUSED_ESCAPES = {
    "K": r"\K (a moved start)",
    "X": r"\X (a Unicode sequence)",
    "R": r"\R (an atomic line break): (?:\r\n|\n) is close",
    "p": r"\p (a Unicode property)",
    "P": r"\P (a Unicode property)",
    "g": r"\g (a backreference or subroutine)",
    "k": r"\k (a backreference)",
}

_REFUSED_GROUPS = {
    b">": "(?> (an atomic group)",
    b"|": "(?| (a branch reset)",
    b"(": "(?( (a condition)",
    b"R": "(?R (a recursion)",
    b"&": "(?& (a subroutine)",
    b"C": "(?C (a callout)",
    b"P=": "(?P= (a backreference)",
    b"P>": "(?P> (a subroutine)",
}

_REPEAT_LIMIT = 65535
_DEPTH_LIMIT = 100


@dataclass(frozen=True)
class _Options:
    """What ``(?imsxU)`` sets."""

    i: bool = True
    m: bool = False
    s: bool = False
    x: bool = False
    U: bool = False


def parse(pattern: bytes) -> Node:
    """Parse a PCRE expression, with PCRE_CASELESS set.

    Raises `RegexError` for what is no PCRE expression, and for what would need backtracking:
    backreferences, recursion, conditions, atomic groups, possessive repeats, callouts, verbs.
    """
    return _Parser(pattern).parse()


class _Parser:
    """A recursive descent over the pattern's bytes."""

    def __init__(self, pattern: bytes) -> None:
        self._cursor = PatternReader(pattern)
        self._options = _Options()
        self._groups = 0
        self._names: set[bytes] = set()
        self._depth = 0
        self._literal = False
        """Inside ``\\Q…\\E``."""

    def parse(self) -> Node:
        """Parse the whole pattern."""
        tree = self._choice()
        if not self._cursor.is_at_end:
            self._cursor.fail("a ( for every )")
        return tree

    def _choice(self) -> Node:
        """Parse up to a closing parenthesis or the end; options set inside hold no further."""
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            self._cursor.fail(f"groups nested no deeper than {_DEPTH_LIMIT}")
        options = self._options
        branches = [self._sequence()]
        while self._cursor.take(b"|"):
            branches.append(self._sequence())
        self._options = options
        self._depth -= 1
        return choice(*branches)

    def _sequence(self) -> Node:
        nodes: list[Node] = []
        while True:
            self._skip_ignored()
            ends = not self._literal and (self._cursor.ahead(b"|") or self._cursor.ahead(b")"))
            if ends or self._cursor.is_at_end:
                return sequence(*nodes)
            nodes.append(self._repeated(*self._atom()))

    def _skip_ignored(self) -> None:
        r"""Skip ``\Q``, ``\E``, comments, and what ``(?x)`` allows."""
        cursor = self._cursor
        while True:
            if cursor.take(b"\\E"):
                self._literal = False
            elif self._literal:
                return
            elif cursor.take(b"\\Q"):
                self._literal = True
            elif cursor.take(b"(?#"):
                cursor.take_until(b")", "a ) that ends the comment")
            elif not (self._options.x and self._skip_extended()):
                return

    def _skip_extended(self) -> bool:
        """Skip white space or a comment of ``(?x)``, and return whether there was any."""
        cursor, start = self._cursor, self._cursor.at
        cursor.take_while(SPACES, len(cursor.pattern))
        if cursor.take(b"#"):
            end = cursor.pattern.find(b"\n", cursor.at)
            cursor.at = len(cursor.pattern) if end < 0 else end + 1
        return cursor.at > start

    def _repeated(self, node: Node, repeatable: bool) -> Node:
        self._skip_ignored()
        bounds = None if self._literal else self._bounds()
        if bounds is None:
            return node
        if not repeatable:
            self._cursor.fail("something in front of a repeat that can be repeated")
        if self._options.x:
            self._skip_extended()
        greedy = self._cursor.take(b"?") == self._options.U
        if self._cursor.ahead(b"+"):
            self._cursor.refuse("a possessive repeat")
        return Repeat(node, *bounds, greedy)

    def _bounds(self) -> tuple[int, int | None] | None:
        """Take ``*``, ``+``, ``?`` or ``{n,m}``; braces that hold anything else stand for themselves."""
        cursor = self._cursor
        for text, bounds in ((b"*", (0, None)), (b"+", (1, None)), (b"?", (0, 1))):
            if cursor.take(text):
                return bounds
        start = cursor.at
        if cursor.take(b"{"):
            least = cursor.number()
            most = cursor.number() if cursor.take(b",") else least
            if least and cursor.take(b"}"):
                return self._counted(int(least[:6]), int(most[:6]) if most else None)
            cursor.at = start
        return None

    def _counted(self, least: int, most: int | None) -> tuple[int, int | None]:
        if max(least, most or 0) > _REPEAT_LIMIT:
            self._cursor.fail(f"no number above {_REPEAT_LIMIT} in a repeat")
        if most is not None and most < least:
            self._cursor.fail("numbers in order in a repeat")
        return least, most

    def _atom(self) -> tuple[Node, bool]:
        """Parse what a repeat may follow, and return whether it really may."""
        cursor = self._cursor
        byte = cursor.pattern[cursor.at]
        if not self._literal:
            if self._bounds() is not None:
                cursor.fail("something in front of a repeat")
            if byte == ord("["):
                return Bytes(bracket_class(cursor, caseless=self._options.i)), True
        cursor.at += 1
        match "" if self._literal else chr(byte):
            case "\\":
                return self._escape()
            case "(":
                return self._group()
            case ".":
                return Bytes(ALL if self._options.s else NOT_NEWLINE), True
            case "^":
                return (MULTILINE_START if self._options.m else Position.START), False
            case "$":
                return (Position.LINE_END if self._options.m else DOLLAR), False
        return self._single(byte), True

    def _single(self, byte: int) -> Bytes:
        values = frozenset((byte,))
        return Bytes(either_case(values) if self._options.i else values)

    def _escape(self) -> tuple[Node, bool]:
        cursor = self._cursor
        letter = cursor.next("a character behind the final backslash")
        name = chr(letter)
        if name in _REFUSED_ESCAPES:
            cursor.at -= 2
            cursor.refuse(_REFUSED_ESCAPES[name])
        if name in _PLACES:
            return _PLACES[name], False
        if letter in ESCAPES:
            return Bytes(ESCAPES[letter]), True
        if name == "N":
            return self._not_newline(), True
        if name == "C":
            return Bytes(ALL), True
        return self._single(cursor.escaped_byte(letter, self._groups)), True

    def _not_newline(self) -> Node:
        start = self._cursor.at
        if self._cursor.ahead(b"{") and self._bounds() is None:
            self._cursor.fail(r"no \N{name}, which PCRE does not know")
        self._cursor.at = start
        return Bytes(NOT_NEWLINE)

    def _group(self) -> tuple[Node, bool]:
        """Parse what follows a parenthesis."""
        cursor = self._cursor
        if cursor.ahead(b"*"):
            cursor.refuse("a verb (*…)")
        if not cursor.take(b"?"):
            return self._capture(), True
        for start, construct in _REFUSED_GROUPS.items():
            if cursor.ahead(start):
                cursor.refuse(construct)
        if cursor.take(b":"):
            return self._closed(), True
        for start, ahead, positive in _LOOKS:
            if cursor.take(start):
                return self._look(ahead, positive), False
        for start, end in ((b"P<", b">"), (b"<", b">"), (b"'", b"'")):
            if cursor.take(start):
                return self._named(end), True
        return self._options_group()

    def _closed(self) -> Node:
        node = self._choice()
        if not self._cursor.take(b")"):
            self._cursor.fail("a ) for every (")
        return node

    def _capture(self) -> Node:
        self._groups += 1
        number = self._groups
        return Group(number, self._closed())

    def _named(self, end: bytes) -> Node:
        name = self._cursor.take_until(end, f"a {end.decode()} that ends the group's name")
        if not name or not set(name) <= WORDS or name[0] in DIGITS or len(name) > 32 or name in self._names:
            self._cursor.fail("a group name of its own: up to 32 letters, digits or _, no digit first")
        self._names.add(name)
        return self._capture()

    def _look(self, ahead: bool, positive: bool) -> Node:
        before = self._groups
        node = self._closed()
        if positive and before == 0 and self._groups:
            self._cursor.refuse("a first capturing group inside a lookaround")
        branches = node.nodes if isinstance(node, Choice) else (node,)
        if not ahead and not all(len(lengths(branch)) == 1 for branch in branches):
            self._cursor.fail("a lookbehind of fixed length, each of its choices")
        if self._bounds() is not None:
            self._cursor.refuse("a repeated lookaround")
        return Look(node, ahead, positive)

    def _options_group(self) -> tuple[Node, bool]:
        """Parse ``(?i-m)``, which holds to the end of the group around it, or ``(?i-m:…)``."""
        cursor, options, on = self._cursor, self._options, True
        while not (cursor.ahead(b")") or cursor.ahead(b":")):
            letter = chr(cursor.next("a ) for every ("))
            if letter == "-" and not (
                cursor.at < len(cursor.pattern) and cursor.pattern[cursor.at] in DIGITS
            ):
                on = False
            elif letter in "imsxU":
                options = replace(options, **{letter: on})
            elif letter.isdigit() or letter in "+-":
                cursor.refuse("a subroutine (?n)")
            else:
                cursor.fail(f"one of the options imsxU, found {letter}")
        if cursor.take(b")"):
            self._options = options
            return NOTHING, False
        cursor.take(b":")
        outer, self._options = self._options, options
        node = self._closed()
        self._options = outer
        return node, True
