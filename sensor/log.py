"""Log lines and error messages on standard error, for a terminal or for systemd's journal.

Used in every process.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from sensor.text import shown_lines


def log_to_stderr() -> None:
    """Log to standard error from now on; on a terminal, log lines overwrite the status line."""
    over_status = "\r\x1b[K" if sys.stderr.isatty() else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JournalLine() if _is_journal(sys.stderr) else _TerminalLine(over_status))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def print_error(text: str) -> None:
    """Print the error message that a command ends with."""
    print(f"{'<3>' if _is_journal(sys.stderr) else ''}sensor: {shown_lines(text)}", file=sys.stderr)  # noqa: T201


class _TerminalLine(logging.Formatter):
    """A line with time and level."""

    def __init__(self, beginning: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._beginning = beginning

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with everything escaped that a terminal would execute."""
        return self._beginning + shown_lines(super().format(record))


class _JournalLine(logging.Formatter):
    """A line that starts with its syslog priority (sd-daemon(3)); the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with priority 3 (error), 4 (warning) or 6 (info)."""
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return f"<{priority}>" + shown_lines(super().format(record)).replace("\n", f"\n<{priority}>")


def _is_journal(stream: TextIO) -> bool:
    """Return True if systemd connected the stream to its journal: ``JOURNAL_STREAM`` of systemd.exec(5)."""
    named = os.environ.get("JOURNAL_STREAM")
    if named is None:
        return False
    status = os.fstat(stream.fileno())
    return named == f"{status.st_dev}:{status.st_ino}"
