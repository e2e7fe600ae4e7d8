"""A sensor with a slow matcher, to test that measurements notice it. Runs as ``python -m bench.slow_sensor``.

It takes the arguments of ``sensor``. Each candidate costs ``SENSOR_BENCH_SLOW_US`` microseconds of CPU time
more.
"""

from __future__ import annotations

import os
import time

from sensor.cli import main
from sensor.evidence.block import EvidenceBlock
from sensor.model import FrameBatch
from sensor.pipeline import Pipeline

_process = Pipeline.process


def _slowly(self: Pipeline, batch: FrameBatch) -> EvidenceBlock:
    end_s = time.process_time() + len(batch) * float(os.environ["SENSOR_BENCH_SLOW_US"]) / 1e6
    while time.process_time() < end_s:
        pass
    return _process(self, batch)


if __name__ == "__main__":
    Pipeline.process = _slowly  # type: ignore[method-assign]
    main()
