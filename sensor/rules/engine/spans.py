"""Find the exact span and group 1 of a rule that matches, with RE2: in linear time, and as PCRE would.

Runs where matches are shown, and in the capture workers for rules that Hyperscan misses. RE2 prefers the
same match as Perl and PCRE. It costs at most about 8 ns per byte and instruction, and usually a hundredth
of that. A search cannot be interrupted, so a text that could cost too much is searched in windows.
"""

from __future__ import annotations

from collections.abc import Iterable

import re2

from sensor.rules.engine.budget import Budget
from sensor.rules.regex.render import RE2_REPEAT_LIMIT, Renderer
from sensor.rules.regex.tree import Mark, Node, RegexError, longest

WORK = 150_000
"""The most bytes times instructions that one search may cost in a worker: at worst, a payload's budget."""
COLD_WORK = 8_000_000
"""The same where matches are shown."""

_OPTIONS = re2.Options()
_OPTIONS.encoding = re2.Options.Encoding.LATIN1
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 19  # bytes per rule; the default is 8 MiB, which crafted payloads would fill
_ANYWHERE = re2._Anchor.UNANCHORED


Span = tuple[int, int]
"""Byte offsets: start, and end (exclusive)."""
NOWHERE: Span = (-1, -1)
"""The span of a group that did not take part in the match."""


class UnknownSpanError(Exception):
    """The span could not be found, because that would cost too much."""


class SpanFinder:
    """Finds the first match of one rule in a text, and the span of group 1."""

    def __init__(self, tree: Node) -> None:
        """Compile a lowered tree.

        Raises:
            RegexError: The tree is too large for RE2.
        """
        renderer = Renderer(RE2_REPEAT_LIMIT)
        pattern = renderer.render(tree).encode()
        self._marks = renderer.groups
        self._is_marked = len(self._marks) > 1 or any(self._marks)
        try:
            compiled = re2.compile(pattern, _OPTIONS)
            size = max(compiled.programsize, compiled.reverseprogramsize)  # also compiles the reverse program
        except re2.error as error:
            raise RegexError(f"RE2 cannot compile the expression, make it smaller: {error}") from None
        self._search = compiled._regexp.Match
        self._size = size
        self._most = longest(tree)

    def find_first(self, text: bytes, budget: Budget) -> list[Span] | None:
        """Find the first match in ``text``, as PCRE does; return None if there is none.

        Returns the span of the match, and the span of group 1 if the rule has one: `NOWHERE` if it took no
        part.

        Raises:
            UnknownSpanError: The budget is spent; or a search would cost more than `COLD_WORK`, and the rule
                has no limit on the length of its matches that lets it be searched for in windows.
        """
        size = max(1, COLD_WORK // self._size)
        if not self._fits(len(text), size):
            raise UnknownSpanError
        for start, end in _windows(len(text), size):
            if budget.is_spent():
                raise UnknownSpanError
            spans: list[Span] = self._search(_ANYWHERE, text, start, end)
            # A match that starts in the second half may be longer than what is seen of it here.
            if spans[0] != NOWHERE and (end == len(text) or spans[0][0] < start + max(1, size // 2)):
                return self._with_marks(spans) if self._is_marked else spans
        return None

    def occurs_in(self, text: bytes, budget: Budget) -> bool:
        """Return True if there is a match; mark the budget as cut if there may be one that was not found.

        Each search costs at most `WORK`, so a text that is too long for the rule is searched in windows.
        """
        size = max(1, WORK // self._size)
        for start, end in _windows(len(text), size):
            if budget.is_spent():
                return False
            if self._search(_ANYWHERE, text, start, end)[0] != NOWHERE:
                return True
        budget.is_cut |= not self._fits(len(text), size)
        return False

    def matches(self, text: bytes) -> bool:
        """Return True if there is a match, whatever that costs."""
        found: bool = self._search(_ANYWHERE, text, 0, len(text))[0] != NOWHERE
        return found

    def _fits(self, size: int, window: int) -> bool:
        """Return True if windows of this size over ``size`` bytes show every match as a whole."""
        return size <= window or (self._most is not None and self._most <= window - window // 2)

    def _with_marks(self, spans: list[Span]) -> list[Span]:
        """Apply the marks, which were rendered as groups, and return the spans of match and group 1."""
        start, end = spans[0]
        group_start, group_end = NOWHERE
        for mark, (mark_start, mark_end) in zip(self._marks, spans[1:], strict=True):
            if mark_start < 0:
                continue
            if mark is None:  # group 1 may occur in several branches, and in several turns of a repeat
                group_start, group_end = max((group_start, group_end), (mark_start, mark_end))
            elif mark is Mark.MATCH_START:
                start = mark_start
            elif mark is Mark.MATCH_END:
                end = min(end, mark_start)
            elif mark is Mark.GROUP_START:
                group_start = max(group_start, mark_start)
            else:
                group_end = max(group_end, mark_start)
        return [(start, end), (group_start, group_end)]


def _windows(size: int, window: int) -> Iterable[Span]:
    """Return windows of up to ``window`` bytes over ``size`` bytes; each overlaps the next by half.

    RE2 sees the bytes around a window: anchors and word boundaries at its edges are those of the text.
    """
    if size <= window:
        return ((0, size),)
    starts = range(0, max(1, size - window // 2), max(1, window // 2))
    return ((start, min(size, start + window)) for start in starts)
