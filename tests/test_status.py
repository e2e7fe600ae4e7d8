"""The status line shows restarts of workers."""

from __future__ import annotations

from sensor.counters import Counters
from sensor.live.status_line import StatusLine


def test_restarts_are_shown_if_there_were_any() -> None:
    """The line mentions restarts only after a worker died."""
    status = StatusLine()
    assert "restarts" not in status(Counters(seen=10), 1000)
    assert status(Counters(seen=20, restarts=2), 2000).endswith("restarts 2")
