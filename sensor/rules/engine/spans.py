"""The exact span and the first group of a rule that hit, by RE2: in linear time, as PCRE finds them.

Runs wherever packets are matched. RE2 prefers among hits as Perl and PCRE do. Its cost is at
most about 8 ns for each byte and instruction, and usually a hundredth of that; so a text is cut
to what its rule can afford (`WORK`), around the place where Hyperscan saw the hit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import re2

from sensor.rules.regex.render import RE2_REPEAT_LIMIT, Renderer
from sensor.rules.regex.tree import Mark, Node, RegexError

WORK = 300_000
"""Bytes times instructions that one search may take."""

_OPTIONS = re2.Options()
_OPTIONS.encoding = re2.Options.Encoding.LATIN1
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 19  # bytes a rule, which payloads made for it would otherwise fill to 8 MiB
_ANYWHERE = re2._Anchor.UNANCHORED


Span = tuple[int, int]
"""Byte offsets, from and up to."""
NOWHERE: Span = (-1, -1)


class SpanFinder:
    """A rule's lowered tree, able to say where it hits first and what group 1 is there."""

    def __init__(self, tree: Node) -> None:
        """Compile the tree. Raises `RegexError` where it is too large."""
        renderer = Renderer(RE2_REPEAT_LIMIT)
        self._pattern = renderer.render(tree).encode()
        self._marks = renderer.captures
        self._is_marked = len(self._marks) > 1 or any(self._marks)
        try:
            compiled = re2.compile(self._pattern, _OPTIONS)
            size = max(compiled.programsize, compiled.reverseprogramsize)  # compiles the latter, too
        except re2.error as error:
            raise RegexError(f"a smaller expression, RE2 does not take this one: {error}") from None
        self._search = compiled._regexp.Match
        self._longest = WORK // size

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_search"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._search = re2.compile(self._pattern, _OPTIONS)._regexp.Match

    def find(self, text: bytes, seen: int) -> list[Span]:
        """Find the first hit in ``text``, in which Hyperscan saw one end at ``seen``.

        Returns the span of the hit, and that of group 1 where there is one: `NOWHERE` where it
        took no part. In a text too long for the rule the search keeps to the bytes around
        ``seen``; where it finds nothing there, the span says no more than that the hit ends there.
        """
        end = len(text)
        start = 0
        if end > self._longest:
            end = min(end, seen + self._longest // 4)
            start = max(0, end - self._longest)
        spans: list[Span] = self._search(_ANYWHERE, text, start, end)
        if spans[0] == NOWHERE:
            return [(start, seen)]
        return self._marked(spans) if self._is_marked else spans

    def hit_end(self, text: bytes, start: int, end: int) -> int:
        """Return where the first hit in a piece of the text ends, and -1 where there is none."""
        seen: int = self._search(_ANYWHERE, text, start, end)[0][1]
        return seen

    def pieces(self, size: int) -> Iterator[Span]:
        """Yield the pieces of a text of ``size`` bytes that one search may take, half over each other."""
        for start in range(0, max(1, size - self._longest // 2), max(1, self._longest // 2)):
            yield start, min(size, start + self._longest)

    def _marked(self, spans: list[Span]) -> list[Span]:
        """Read the marks off the spans of the groups they are rendered as."""
        start, end = spans[0]
        group_start, group_end = NOWHERE
        for mark, (place, place_end) in zip(self._marks, spans[1:], strict=True):
            if place < 0:
                continue
            if mark is None:  # group 1 may stand in several branches, and in turns of an unrolled repeat
                group_start, group_end = max((group_start, group_end), (place, place_end))
            elif mark is Mark.HIT_START:
                start = place
            elif mark is Mark.HIT_END:
                end = min(end, place)
            elif mark is Mark.GROUP_START:
                group_start = max(group_start, place)
            else:
                group_end = max(group_end, place)
        return [(start, end), (group_start, group_end)]
