"""The status line on the terminal of ``sensor run`` and in ``systemctl status``. Runs in the supervisor."""

from __future__ import annotations

import time

from sensor.counters import Counters


class StatusLine:
    """Rates since the last call, and totals since the start."""

    def __init__(self) -> None:
        self._before = (time.monotonic(), Counters(), 0)

    def __call__(self, counters: Counters, seen_bytes: int) -> str:
        """Return the line; ``seen_bytes`` is the total of all frames seen."""
        now = time.monotonic()
        then, before, bytes_before = self._before
        self._before = (now, counters, seen_bytes)
        elapsed_s = now - then
        seen = counters.seen - before.seen
        submitted = counters.submitted - before.submitted
        share = submitted / seen if seen else 0.0
        gigabits = (seen_bytes - bytes_before) * 8 / elapsed_s / 1e9
        return (
            f"{seen / elapsed_s:,.0f} frames/s  {gigabits:.2f} Gb/s  "
            f"candidates {share:.0%}  lost {counters.submit_failed:,}  undecodable {counters.undecodable:,}  "
            f"matched {counters.matched:,}  written {counters.written:,}"
            + (f"  restarts {counters.restarts:,}" if counters.restarts else "")
        )
