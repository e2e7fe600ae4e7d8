"""The sensor as a program whose wall clock is set wrong at times, without setting that of the machine.

python tests/soak/soaked_sensor.py STEPS run -i eth1 ...

STEPS is JSON from `tests.soak.wrong_clock`. Forked processes have the same clock: the steps depend on the
monotonic clock alone, since workers share neither memory nor files. The API is started anew and is right.
"""

from __future__ import annotations

import json
import sys
import time

from sensor.cli import main

if __name__ == "__main__":
    steps, right_ns = json.loads(sys.argv.pop(1)), time.time_ns

    def wrong_ns() -> int:
        """Return the time as the sensor sees it."""
        now_ns = time.monotonic_ns()
        return right_ns() + sum(step_ns for start_ns, end_ns, step_ns in steps if start_ns <= now_ns < end_ns)

    time.time_ns = wrong_ns
    time.time = lambda: wrong_ns() / 1e9
    main()
