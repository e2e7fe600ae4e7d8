"""A line on the terminal that is drawn again and again: status and progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sensor.rules.progress import Watch, unwatched


def redraw(line: str) -> None:
    """Draw the line over the one before."""
    sys.stderr.write(f"\r\x1b[K{line}")
    sys.stderr.flush()


@contextmanager
def drawn_progress() -> Iterator[Watch]:
    """Return a function that draws the progress of compiling rules, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield unwatched
        return
    try:
        yield lambda progress: redraw(progress.words)
    finally:
        redraw("")
