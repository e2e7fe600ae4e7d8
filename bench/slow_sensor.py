"""A sensor with a slow matcher, to test that measurements notice it. Runs as ``python -m bench.slow_sensor``.

It takes the arguments of ``sensor``. Each candidate costs ``SENSOR_BENCH_SLOW_US`` microseconds of CPU time
more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from sensor.cli import main
from sensor.model import FrameBatch
from sensor.pipeline import Pipeline, Turn

_turns = Pipeline.turns


def _slowly(self: Pipeline, batch: FrameBatch, turn_ns: int = 0) -> Iterator[Turn]:
    end_s = time.process_time() + len(batch) * float(os.environ["SENSOR_BENCH_SLOW_US"]) / 1e6
    while time.process_time() < end_s:
        pass
    yield from _turns(self, batch, turn_ns)


if __name__ == "__main__":
    Pipeline.turns = _slowly  # type: ignore[method-assign]
    main()
