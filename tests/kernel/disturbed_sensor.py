"""The sensor as a program, in which frames that end with "deadly" kill workers, and stalls are seen soon.

python tests/kernel/disturbed_sensor.py run -i eth1 ...
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import sensor.live.worker_pool
from sensor.cli import main
from sensor.model import FrameBatch
from sensor.pipeline import Pipeline, Turn

CHECK_S = 0.1

_turns = Pipeline.turns


def turns(self: Pipeline, batch: FrameBatch, turn_ns: int = 0) -> Iterator[Turn]:
    """Match the batch, or end the process as a fault in a library would."""
    ends = (batch.start + batch.caplen).tolist()
    if any(batch.buffer[end - 6 : end] == b"deadly" for end in ends):
        os.kill(os.getpid(), signal.SIGSEGV)
    return _turns(self, batch, turn_ns)


if __name__ == "__main__":
    sensor.live.worker_pool.CHECK_S = CHECK_S
    Pipeline.turns = turns  # type: ignore[method-assign]
    main()
