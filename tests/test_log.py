"""Log lines and error messages, for a terminal and for systemd's journal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import logging
from sensor.log import log_to_stderr, print_error
log_to_stderr()
for level in (logging.INFO, logging.WARNING, logging.ERROR):
    logging.log(level, "%d rules", 3)
print_error("no such file")
"""


@pytest.mark.parametrize("is_journal", [True, False])
def test_lines_have_a_priority_in_the_journal(is_journal: bool) -> None:
    """Lines in the journal have a priority of sd-daemon(3) and no time; others have time and level."""
    reader, writer = os.pipe()
    status = os.fstat(writer)
    stream = f"{status.st_dev}:{status.st_ino if is_journal else status.st_ino + 1}"
    with os.fdopen(reader) as lines:
        environment = {**os.environ, "JOURNAL_STREAM": stream}
        subprocess.run([sys.executable, "-c", PROGRAM], check=True, stderr=writer, env=environment)
        os.close(writer)
        written = lines.read().splitlines()
    if is_journal:
        assert written == ["<6>3 rules", "<4>3 rules", "<3>3 rules", "<3>sensor: no such file"]
    else:
        assert [line.split()[2:] for line in written[:3]] == [
            [n, "3", "rules"] for n in ("INFO", "WARNING", "ERROR")
        ]
        assert written[3] == "sensor: no such file"
