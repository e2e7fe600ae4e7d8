"""PCRE syntax to a syntax tree: reads a rule's expression exactly as PCRE reads it, on bytes and caseless.

Reference: pcrepattern(3) of PCRE 8.39. What only a backtracking engine could decide is refused
and named. Used when rules are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

from sensor.rules.regex import (
    NOTHING,
    Bytes,
    Choice,
    Group,
    Look,
    Node,
    Place,
    RegexError,
    Repeat,
    Sequence,
    choice,
    lengths,
    sequence,
)

ALL = frozenset(range(256))
DIGITS = frozenset(b"0123456789")
SPACES = frozenset(b"\t\n\v\f\r ")
WORDS = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")
BLANKS = frozenset(b"\t \xa0")
LINE_BREAKS = frozenset(b"\n\v\f\r\x85")
NOT_NEWLINE = ALL - frozenset(b"\n")

_LOWER = frozenset(b"abcdefghijklmnopqrstuvwxyz")
_UPPER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_HEX = frozenset(b"0123456789ABCDEFabcdef")
_GRAPHIC = frozenset(range(0x21, 0x7F))

_CLASS_ESCAPES = {
    ord("d"): DIGITS,
    ord("D"): ALL - DIGITS,
    ord("s"): SPACES,
    ord("S"): ALL - SPACES,
    ord("w"): WORDS,
    ord("W"): ALL - WORDS,
    ord("h"): BLANKS,
    ord("H"): ALL - BLANKS,
    ord("v"): LINE_BREAKS,
    ord("V"): ALL - LINE_BREAKS,
}

_POSIX_CLASSES = {
    b"alpha": _LOWER | _UPPER,
    b"lower": _LOWER,
    b"upper": _UPPER,
    b"alnum": _LOWER | _UPPER | DIGITS,
    b"ascii": frozenset(range(128)),
    b"blank": frozenset(b"\t "),
    b"cntrl": frozenset(range(32)) | {127},
    b"digit": DIGITS,
    b"graph": _GRAPHIC,
    b"print": _GRAPHIC | {32},
    b"punct": _GRAPHIC - _LOWER - _UPPER - DIGITS,
    b"space": SPACES,
    b"word": WORDS,
    b"xdigit": _HEX,
}

_PLACE_ESCAPES = {
    ord("A"): Place.START,
    ord("G"): Place.START,
    ord("z"): Place.END,
    ord("b"): Place.WORD,
    ord("B"): Place.NOT_WORD,
}

_CONTROLS = {ord("a"): 7, ord("e"): 27, ord("f"): 12, ord("n"): 10, ord("r"): 13, ord("t"): 9}

_REFUSED_ESCAPES = {
    ord("K"): r"\K (a moved start)",
    ord("X"): r"\X (a Unicode sequence)",
    ord("R"): r"\R (an atomic line break), such as (?:\r\n|\n)",
    ord("p"): r"\p (a Unicode property)",
    ord("P"): r"\P (a Unicode property)",
    ord("g"): r"\g (a backreference or subroutine)",
    ord("k"): r"\k (a backreference)",
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

DOLLAR = Look(Choice((Place.END, Sequence((Bytes(frozenset(b"\n")), Place.END)))), ahead=True, positive=True)
"""``$`` and ``\\Z``: the end, or a final newline ahead."""

MULTILINE_START = Sequence((Place.LINE_START, Look(Place.END, ahead=True, positive=False)))
"""``^`` with ``(?m)``: not behind a final newline."""

_LOOKS = ((b"=", True, True), (b"!", True, False), (b"<=", False, True), (b"<!", False, False))


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
        self._pattern = pattern
        self._at = 0
        self._groups = 0
        self._names: set[bytes] = set()
        self._depth = 0
        self._options = _Options()
        self._literal = False
        """Inside ``\\Q…\\E``."""

    def parse(self) -> Node:
        """Parse the whole pattern."""
        if self._pattern.startswith(b"(*"):
            self._refuse("a verb (*…)")
        tree = self._choice()
        if self._at < len(self._pattern):
            self._fail("no ) without its (")
        return tree

    # The cursor.

    def _fail(self, expected: str) -> NoReturn:
        raise RegexError(f"{expected}, at byte {self._at} of the expression")

    def _refuse(self, construct: str) -> NoReturn:
        self._fail(f"an expression without {construct}")

    def _ahead(self, text: bytes) -> bool:
        return self._pattern.startswith(text, self._at)

    def _take(self, text: bytes) -> bool:
        found = self._ahead(text)
        self._at += len(text) if found else 0
        return found

    def _next(self, expected: str) -> int:
        if self._at >= len(self._pattern):
            self._fail(expected)
        self._at += 1
        return self._pattern[self._at - 1]

    def _take_while(self, allowed: frozenset[int], most: int) -> bytes:
        start = self._at
        while self._at < min(len(self._pattern), start + most) and self._pattern[self._at] in allowed:
            self._at += 1
        return self._pattern[start : self._at]

    def _take_until(self, closing: bytes, expected: str) -> bytes:
        end = self._pattern.find(closing, self._at)
        if end < 0:
            self._fail(expected)
        text = self._pattern[self._at : end]
        self._at = end + len(closing)
        return text

    # Choices, sequences, repeats.

    def _choice(self) -> Node:
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            self._fail(f"groups nested no deeper than {_DEPTH_LIMIT}")
        options = self._options
        branches = [self._sequence()]
        while self._take(b"|"):
            branches.append(self._sequence())
        self._options = options
        self._depth -= 1
        return choice(*branches)

    def _sequence(self) -> Node:
        nodes: list[Node] = []
        while True:
            self._skip_ignored()
            if self._at >= len(self._pattern) or (not self._literal and self._pattern[self._at] in b"|)"):
                return sequence(*nodes)
            node, repeatable = self._atom()
            nodes.append(self._repeated(node, repeatable))

    def _skip_ignored(self) -> None:
        r"""Skip ``\Q``, ``\E``, comments, and what ``(?x)`` allows."""
        while True:
            if self._literal:
                if not self._take(b"\\E"):
                    return
                self._literal = False
            elif self._take(b"\\Q"):
                self._literal = True
            elif self._take(b"(?#"):
                self._take_until(b")", "a ) that ends the comment")
            elif self._options.x and self._at < len(self._pattern) and self._pattern[self._at] in SPACES:
                self._at += 1
            elif self._options.x and self._take(b"#"):
                end = self._pattern.find(b"\n", self._at)
                self._at = len(self._pattern) if end < 0 else end + 1
            elif not self._take(b"\\E"):
                return

    def _repeated(self, node: Node, repeatable: bool) -> Node:
        self._skip_ignored()
        bounds = None if self._literal else self._bounds()
        if bounds is None:
            return node
        if not repeatable:
            self._fail("something in front of a repeat that can be repeated")
        greedy = self._take(b"?") == self._options.U
        if self._ahead(b"+"):
            self._refuse("a possessive repeat")
        return Repeat(node, *bounds, greedy)

    def _bounds(self) -> tuple[int, int | None] | None:
        for text, bounds in ((b"*", (0, None)), (b"+", (1, None)), (b"?", (0, 1))):
            if self._take(text):
                return bounds
        start = self._at
        if self._take(b"{"):
            least = self._take_while(DIGITS, len(self._pattern))
            comma = self._take(b",")
            most = self._take_while(DIGITS, len(self._pattern)) if comma else least
            if least and self._take(b"}"):
                return self._counted(least, most)
            self._at = start
        return None

    def _counted(self, least: bytes, most: bytes) -> tuple[int, int | None]:
        bounds = int(least[:6]), (int(most[:6]) if most else None)
        if max(bounds[0], bounds[1] or 0) > _REPEAT_LIMIT:
            self._fail(f"no number above {_REPEAT_LIMIT} in a repeat")
        if bounds[1] is not None and bounds[1] < bounds[0]:
            self._fail("numbers in order in a repeat")
        return bounds

    # Atoms. Each comes with whether a repeat may follow.

    def _atom(self) -> tuple[Node, bool]:
        byte = self._next("an expression")
        if self._literal:
            return self._single(byte), True
        match chr(byte):
            case "\\":
                return self._escape()
            case "[":
                return self._class(), True
            case "(":
                return self._group()
            case ".":
                return Bytes(ALL if self._options.s else NOT_NEWLINE), True
            case "^":
                return (MULTILINE_START if self._options.m else Place.START), False
            case "$":
                return (Place.LINE_END if self._options.m else DOLLAR), False
        self._at -= 1
        if self._bounds() is not None:
            self._fail("something in front of a repeat")
        self._at += 1
        return self._single(byte), True

    def _single(self, byte: int) -> Bytes:
        return Bytes(self._cased(frozenset((byte,))))

    def _cased(self, values: frozenset[int]) -> frozenset[int]:
        """Add the other case of each letter, where case does not count."""
        if not self._options.i:
            return values
        return values | {value ^ 0x20 for value in values & (_LOWER | _UPPER)}

    def _escape(self) -> tuple[Node, bool]:
        byte = self._next("a character behind the final backslash")
        if byte in _REFUSED_ESCAPES:
            self._at -= 2
            self._refuse(_REFUSED_ESCAPES[byte])
        if byte in _PLACE_ESCAPES:
            return _PLACE_ESCAPES[byte], False
        if byte == ord("Z"):
            return DOLLAR, False
        if byte in _CLASS_ESCAPES:
            return Bytes(_CLASS_ESCAPES[byte]), True
        if byte == ord("N"):
            return self._not_newline(), True
        if byte == ord("C"):
            return Bytes(ALL), True
        return self._single(self._character(byte, in_class=False)), True

    def _not_newline(self) -> Node:
        start = self._at
        if self._ahead(b"{") and self._bounds() is None:
            self._fail(r"no \N{name}, which PCRE does not know")
        self._at = start
        return Bytes(NOT_NEWLINE)

    def _character(self, byte: int, *, in_class: bool) -> int:
        """Return the value of an escape that stands for one byte; ``byte`` is what follows the backslash."""
        if byte in _CONTROLS:
            return _CONTROLS[byte]
        if byte in DIGITS:
            return self._digits(in_class)
        if byte == ord("x"):
            return self._hexadecimal()
        if byte == ord("o"):
            if not self._take(b"{"):
                self._fail(r"a { behind \o")
            return self._byte(self._take_until(b"}", r"a } behind \o{"), 8)
        if byte == ord("c"):
            control = self._next(r"a character behind \c")
            if control > 127:
                self._fail(r"an ASCII character behind \c")
            return (control ^ 0x20 if control in _LOWER else control) ^ 0x40
        if byte in b"lLuU":
            self._fail(rf"no \{chr(byte)}, which PCRE does not know")
        return byte

    def _digits(self, in_class: bool) -> int:
        """Read an octal escape, or refuse a backreference; the first digit is taken."""
        self._at -= 1
        start = self._at
        number = int(self._take_while(DIGITS, len(self._pattern))[:9])
        if not in_class and self._pattern[start] != 0x30 and (number < 10 or number <= self._groups):
            self._at = start - 1
            self._refuse(f"\\{number} (a backreference)")
        self._at = start
        if self._pattern[start] in b"89":
            self._at += 1
            return self._pattern[start]
        value = int(self._take_while(frozenset(b"01234567"), 3), 8)
        if value > 255:
            self._fail("an octal number of no more than 377")
        return value

    def _hexadecimal(self) -> int:
        if self._take(b"{"):
            return self._byte(self._take_until(b"}", r"a } behind \x{"), 16)
        return int(self._take_while(_HEX, 2) or b"0", 16)

    def _byte(self, digits: bytes, base: int) -> int:
        try:
            value = int(digits, base)
        except ValueError:
            value = -1
        if not digits.isalnum() or not 0 <= value <= 255:
            self._fail(f"a number to base {base} that fits in one byte")
        return value

    # Groups.

    def _group(self) -> tuple[Node, bool]:
        """Parse what follows a parenthesis."""
        if self._ahead(b"*"):
            self._refuse("a verb (*…)")
        if not self._take(b"?"):
            return self._capture(), True
        for start, construct in _REFUSED_GROUPS.items():
            if self._ahead(start):
                self._refuse(construct)
        if self._take(b":"):
            return self._closed(), True
        for start, ahead, positive in _LOOKS:
            if self._take(start):
                return self._look(ahead, positive), False
        for start, end in ((b"P<", b">"), (b"<", b">"), (b"'", b"'")):
            if self._take(start):
                return self._named(end), True
        return self._options_group()

    def _capture(self) -> Node:
        self._groups += 1
        number = self._groups
        return Group(number, self._closed())

    def _named(self, end: bytes) -> Node:
        name = self._take_until(end, f"a {end.decode()} that ends the group's name")
        if not name or not set(name) <= WORDS or name[0] in DIGITS or len(name) > 32 or name in self._names:
            self._fail("a group name of its own: up to 32 letters, digits or _, no digit first")
        self._names.add(name)
        return self._capture()

    def _look(self, ahead: bool, positive: bool) -> Node:
        before = self._groups
        node = self._closed()
        if positive and before == 0 and self._groups:
            self._refuse("a first capturing group inside a lookaround")
        branches = node.nodes if isinstance(node, Choice) else (node,)
        if not ahead and not all(len(lengths(branch)) == 1 for branch in branches):
            self._fail("a lookbehind of fixed length, each of its choices")
        if self._bounds() is not None:
            self._refuse("a repeated lookaround")
        return Look(node, ahead, positive)

    def _closed(self) -> Node:
        options = self._options
        node = self._choice()
        self._options = options
        if not self._take(b")"):
            self._fail("a ) for every (")
        return node

    def _options_group(self) -> tuple[Node, bool]:
        """Parse ``(?i-m)`` or ``(?i-m:…)``; the former holds to the end of the group around it."""
        options = self._options
        on = True
        while not (self._ahead(b")") or self._ahead(b":")):
            letter = chr(self._next("a ) for every ("))
            if letter == "-" and on:
                on = False
            elif letter in "imsxU":
                options = replace(options, **{letter: on})
            elif letter.isdigit() or letter in "+-":
                self._refuse("a subroutine (?n)")
            else:
                self._fail(f"one of the options imsxU, found {letter}")
        if self._take(b")"):
            self._options = options
            return NOTHING, False
        outer, self._options = self._options, options
        self._at += 1
        node = self._closed()
        self._options = outer
        return node, True

    # Classes.

    def _class(self) -> Node:
        """Parse ``[…]``; the bracket is taken."""
        self._at -= 1
        if self._posix_end() is not None:
            self._fail("a POSIX class inside brackets, as in [[:alpha:]]")
        self._at += 1
        negative = self._take(b"^")
        values: frozenset[int] = frozenset()
        self._skip_quotes()
        while True:
            values |= self._class_item()
            self._skip_quotes()
            if not self._literal and self._take(b"]"):
                return Bytes(ALL - values if negative else values)

    def _class_item(self) -> frozenset[int]:
        """Parse one byte, range or named set."""
        end = self._posix_end()
        if end is not None:
            return self._posix(end)
        low = self._class_member()
        if isinstance(low, frozenset):
            return low
        self._skip_quotes()
        if self._literal or not self._take(b"-"):
            return self._cased(frozenset((low,)))
        self._skip_quotes()
        if not self._literal and self._ahead(b"]"):
            return self._cased(frozenset((low, ord("-"))))
        high = self._class_member() if self._posix_end() is None else frozenset[int]()
        if isinstance(high, frozenset) or high < low:
            self._fail("two bytes in order as the ends of a range")
        return self._cased(frozenset(range(low, high + 1)))

    def _skip_quotes(self) -> None:
        r"""Skip ``\Q`` and ``\E`` in brackets."""
        while True:
            if self._take(b"\\E"):
                self._literal = False
            elif self._literal or not self._take(b"\\Q"):
                return
            else:
                self._literal = True

    def _class_member(self) -> int | frozenset[int]:
        """Parse one byte, or an escape that stands for a set."""
        byte = self._next("a ] for every [")
        if self._literal or byte != 0x5C:
            return byte
        byte = self._next("a character behind the final backslash")
        if byte in _CLASS_ESCAPES:
            return _CLASS_ESCAPES[byte]
        if byte == ord("b"):
            return 8
        if byte in b"pPN":
            self._refuse(f"\\{chr(byte)} in brackets")
        return self._character(byte, in_class=True)

    def _posix_end(self) -> int | None:
        """Find the end of ``[:name:]``, ``[.x.]`` or ``[=x=]`` at the cursor, as PCRE's own check does."""
        kind = self._pattern[self._at + 1 : self._at + 2]
        if self._literal or not self._ahead(b"[") or kind not in (b":", b".", b"="):
            return None
        at = self._at + 2
        while at < len(self._pattern):
            text = self._pattern[at : at + 2]
            if text in (b"\\]", b"\\\\"):
                at += 1
            elif text == kind + b"]":
                return at
            elif text == b"[" + kind or text[:1] == b"]":
                return None
            at += 1
        return None

    def _posix(self, end: int) -> frozenset[int]:
        name = self._pattern[self._at + 2 : end]
        negative, name = name.startswith(b"^"), name.removeprefix(b"^")
        if self._pattern[self._at + 1] != 0x3A or name not in _POSIX_CLASSES:
            self._fail(f"one of the POSIX classes {b', '.join(_POSIX_CLASSES).decode()}")
        if self._options.i and name in (b"lower", b"upper"):
            name = b"alpha"
        self._at = end + 2
        return ALL - _POSIX_CLASSES[name] if negative else _POSIX_CLASSES[name]
