"""The sensor as a program in which it takes `COST_S` to match some packets, on any machine.

python tests/kernel/overloaded_sensor.py run -i eth1 ...
"""

from __future__ import annotations

import time

import numpy as np

from sensor.cli import main
from sensor.rules.engine.matcher import Matcher, Matches, Payloads

COSTLY = b"costly to match"
"""Text in the packets that take long."""
COST_S = 0.005

_matches = Matcher.matches


def matches(
    self: Matcher, buffer: memoryview, payloads: Payloads, stop_ns: int = 0, *, measure: bool = False
) -> Matches:
    """Match payload by payload, and wait for each that is costly."""
    parts = [_matches(self, buffer, payloads.select(slice(0)), measure=measure)]
    for number, (start, end) in enumerate(zip(payloads.start.tolist(), payloads.end.tolist(), strict=True)):
        started_ns = time.monotonic_ns()
        found = _matches(self, buffer, payloads.select(slice(number, number + 1)), measure=measure)
        if COSTLY in bytes(buffer[start:end]):
            time.sleep(COST_S)
        now_ns = time.monotonic_ns()
        parts.append(
            found._replace(payload=found.payload + number, cost_ns=np.array([now_ns - started_ns], np.int64))
        )
        if stop_ns and now_ns >= stop_ns:
            break
    return Matches(*map(np.concatenate, zip(*parts, strict=True)))


if __name__ == "__main__":
    Matcher.matches = matches  # type: ignore[method-assign]
    main()
