"""Find the exact span and group 1 of a rule that matches, with RE2: in linear time, and as PCRE would.

Runs where matches are shown, and in the capture workers for rules that Hyperscan misses. RE2 prefers the
same match as Perl and PCRE. It costs at most about 8 ns per byte and instruction, and usually a hundredth
of that. So the text is cut to what its rule can afford.
"""

from __future__ import annotations

from collections.abc import Iterator

import re2

from sensor.rules.regex.render import RE2_REPEAT_LIMIT, Renderer
from sensor.rules.regex.tree import Mark, Node, RegexError

WORK = 300_000
"""The most bytes times instructions that one search may cost in a worker."""
COLD_WORK = 8_000_000
"""The same where matches are shown."""
MOST_COLD_WORK = 64_000_000
"""The most that all searches for one match in one text may cost there."""

_OPTIONS = re2.Options()
_OPTIONS.encoding = re2.Options.Encoding.LATIN1
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 19  # bytes per rule; the default is 8 MiB, which crafted payloads would fill
_ANYWHERE = re2._Anchor.UNANCHORED


Span = tuple[int, int]
"""Byte offsets: start, and end (exclusive)."""
NOWHERE: Span = (-1, -1)
"""The span of a group that did not take part in the match."""


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
        self._longest = WORK // size

    def find(self, text: bytes, seen: int) -> list[Span]:
        """Find the first match in ``text``; ``seen`` is where Hyperscan saw a match end.

        Returns the span of the match, and the span of group 1 if the rule has one: `NOWHERE` if it
        took no part. If the text is too long for the rule, only the bytes around ``seen`` are
        searched; if nothing is found there, only the end of the returned span is exact.
        """
        end = len(text)
        start = 0
        if end > self._longest:
            end = min(end, seen + self._longest // 4)
            start = max(0, end - self._longest)
        spans: list[Span] = self._search(_ANYWHERE, text, start, end)
        if spans[0] == NOWHERE:
            return [(start, seen)]
        return self._with_marks(spans) if self._is_marked else spans

    def find_first(self, text: bytes) -> list[Span] | None:
        """Find the first match in ``text``, and return the spans as `find` does; None if there is none.

        If searching the whole text would cost more than `COLD_WORK`, it is searched in windows, each of
        which overlaps the next by half, until `MOST_COLD_WORK` is spent. Matches longer than half a window
        may then be missed.
        """
        longest = max(1, COLD_WORK // self._size)
        if len(text) <= longest:
            found: list[Span] = self._search(_ANYWHERE, text, 0, len(text))
            if found[0] == NOWHERE:
                return None
            return self._with_marks(found) if self._is_marked else found
        most = MOST_COLD_WORK // self._size
        for start, end in _windows(len(text), longest):
            spans: list[Span] = self._search(_ANYWHERE, text, start, end)
            if spans[0] != NOWHERE:
                return self._with_marks(spans) if self._is_marked else spans
            most -= end - start
            if most <= 0:
                break
        return None

    def match_end(self, text: bytes, start: int, end: int) -> int:
        """Return where the first match between ``start`` and ``end`` ends, or -1 if there is none."""
        seen: int = self._search(_ANYWHERE, text, start, end)[0][1]
        return seen

    def windows(self, size: int) -> Iterator[Span]:
        """Return windows over ``size`` bytes that one search can afford; each overlaps the next by half."""
        return _windows(size, self._longest)

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


def _windows(size: int, longest: int) -> Iterator[Span]:
    """Yield windows of up to ``longest`` bytes over ``size`` bytes; each overlaps the next by half."""
    for start in range(0, max(1, size - longest // 2), max(1, longest // 2)):
        yield start, min(size, start + longest)
