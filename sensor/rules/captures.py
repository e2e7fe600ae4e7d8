"""The exact span and the first group of a rule that hit. Runs wherever packets are matched."""

from __future__ import annotations

import re
from typing import NamedTuple

import re2

_OPTIONS = re2.Options()
_OPTIONS.case_sensitive = False
_OPTIONS.encoding = re2.Options.Encoding.LATIN1
_OPTIONS.log_errors = False


class Span(NamedTuple):
    """Byte offsets of a hit and of group 1; -1 where the group took no part."""

    start: int
    end: int
    group_start: int
    group_end: int


class Captures:
    """One rule's regex, able to say where it hits first and what group 1 is there."""

    def __init__(self, pattern: bytes) -> None:
        pattern = (
            pattern.replace(b"\\x0\\x0", b"\\x00\\x00")
            .replace(b"\\x0L", b"\\x00L")
            .replace(b"\\x0A", b"\\x00A")
        )
        if b"(?!" in pattern or b"$" in pattern:
            self._regex = re.compile(pattern, re.IGNORECASE)
        else:
            self._regex = re2.compile(pattern, _OPTIONS)
        self._groups = self._regex.groups

    def find(self, payload: bytes) -> Span | None:
        """Where the regex hits first, or None."""
        found = self._regex.search(payload)
        if found is None:
            return None
        group = found.span(1) if self._groups else (-1, -1)
        return Span(*found.span(), *group)
