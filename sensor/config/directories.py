"""Checks of the directories that settings and arguments name. Runs where commands start."""

from __future__ import annotations

import stat
from pathlib import Path

MISSING = "there is no such directory"
"""The fault of a directory that does not exist, but could be created."""


def directory_fault(path: Path) -> str | None:
    """Return why a path is no directory that can be used, in words after its name; None if it is one.

    ``Path.is_dir()`` raises an error if a directory above may not be searched, or if the name is too long.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    return None if stat.S_ISDIR(mode) else "is not a directory"
