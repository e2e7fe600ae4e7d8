"""How commands speak to people, and to systemd's journal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("is_journal", [True, False])
def test_an_error_has_a_priority_in_the_journal(is_journal: bool) -> None:
    """That of sd-daemon(3); elsewhere the line is as it is for everybody."""
    reader, writer = os.pipe()
    status = os.fstat(writer)
    stream = f"{status.st_dev}:{status.st_ino if is_journal else status.st_ino + 1}"
    with open(reader) as lines:  # noqa: PTH123 - a descriptor
        command = [sys.executable, "-m", "sensor", "read", "/nowhere.pcap"]
        subprocess.run(command, check=False, stderr=writer, env={**os.environ, "JOURNAL_STREAM": stream})
        os.close(writer)
        assert lines.readline().startswith("<3>sensor: " if is_journal else "sensor: ")
