"""The status line shows what must not be overlooked."""

from __future__ import annotations

import io

from sensor.counters import Counters
from sensor.status import StatusLine


def test_restarts_are_shown_where_there_were_any() -> None:
    """A worker that died is news; that none did is not."""
    terminal = io.StringIO()
    status = StatusLine(terminal)
    status(Counters(seen=10), 1000)
    assert "restarts" not in terminal.getvalue()
    status(Counters(seen=20, restarts=2), 2000)
    assert terminal.getvalue().endswith("restarts 2")
