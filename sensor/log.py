"""Log lines and error messages on standard error, for a terminal or for systemd's journal.

Used in every process.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO


def log_to_stderr() -> None:
    """Log to standard error from now on; on a terminal, log lines overwrite the status line."""
    over_status = "\r\x1b[K" if sys.stderr.isatty() else ""
    line = f"{over_status}%(asctime)s %(levelname)s %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JournalLine() if _is_journal(sys.stderr) else logging.Formatter(line))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def print_error(text: str) -> None:
    """Print the error message that a command ends with."""
    print(f"{'<3>' if _is_journal(sys.stderr) else ''}sensor: {text}", file=sys.stderr)  # noqa: T201


class _JournalLine(logging.Formatter):
    """A line that starts with its syslog priority (sd-daemon(3)); the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with priority 3 (error), 4 (warning) or 6 (info)."""
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return f"<{priority}>{super().format(record)}"


def _is_journal(stream: TextIO) -> bool:
    """Return True if systemd connected the stream to its journal: ``JOURNAL_STREAM`` of systemd.exec(5)."""
    named = os.environ.get("JOURNAL_STREAM")
    if named is None:
        return False
    status = os.fstat(stream.fileno())
    return named == f"{status.st_dev}:{status.st_ino}"
