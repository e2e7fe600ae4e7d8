"""Cursors: where the next page of a search starts. Runs in the API process and in ``sensor evidence``."""

from __future__ import annotations

import re

from sensor.errors import EvidenceError

Position = tuple[int, int, int]
"""Sort key of evidence: time in microseconds, the part of the record offset in its id, devid."""


class CursorError(EvidenceError):
    """The cursor is invalid."""


def cursor_text(position: Position) -> str:
    """Return the cursor for the evidence before a position."""
    return "-".join(map(str, position))


def parse_cursor(cursor: str) -> Position:
    """Return the position of a cursor.

    Raises:
        CursorError: the text is not a cursor.
    """
    found = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})-([0-9]{1,18})", cursor, re.ASCII)
    if not found:
        raise CursorError(f"{cursor!r} is not a valid cursor; start again without one")
    time_us, tail, devid = map(int, found.groups())
    return time_us, tail, devid
