"""A fuzzer whose rounds end in every way that a fault can end a round, for the tests of the campaign."""

from __future__ import annotations

import time

import numpy as np

from sensor.native.records import copy_records
from tests.fuzz.rounds import Round


def fuzz(one: Round) -> None:
    """End as the first number of the round's seed says."""
    one.comparisons += 1
    match one.number:
        case 1:
            one.fault("a difference", frame_bin=b"frame")
        case 2:
            raise ValueError("unexpected")
        case 3:
            copy_records(np.zeros(20, np.uint8), np.array([8], np.uint32), np.array([13], np.uint32))
        case 4:
            time.sleep(100)
