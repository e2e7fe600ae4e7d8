"""Log lines and error lines on standard error, in the form a terminal or systemd's journal expects.

Used by every process of the sensor.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO


def log_to_stderr() -> None:
    """Let this process log a line for each thing that happens; over the status line, where one is drawn."""
    over_status = "\r\x1b[K" if sys.stderr.isatty() else ""
    line = f"{over_status}%(asctime)s %(levelname)s %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JournalLine() if _is_journal(sys.stderr) else logging.Formatter(line))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def print_error(text: str) -> None:
    """Print the line that a command ends with."""
    print(f"{'<3>' if _is_journal(sys.stderr) else ''}sensor: {text}", file=sys.stderr)  # noqa: T201


class _JournalLine(logging.Formatter):
    """A line with syslog's priority in front (sd-daemon(3)), without the time: the journal knows it."""

    def format(self, record: logging.LogRecord) -> str:
        """From 3, error, to 6, info."""
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return f"<{priority}>{super().format(record)}"


def _is_journal(stream: TextIO) -> bool:
    """Whether lines go to systemd's journal: it says so in ``JOURNAL_STREAM`` (systemd.exec(5))."""
    named = os.environ.get("JOURNAL_STREAM")
    if named is None:
        return False
    status = os.fstat(stream.fileno())
    return named == f"{status.st_dev}:{status.st_ino}"
