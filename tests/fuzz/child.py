"""One fuzzer in a process of its own, which the campaign starts and watches.

It writes a JSON object per line: the round that begins, and then its result. So a round that ends the
process, or never ends, is known.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import os
import resource
import sys
import time
from pathlib import Path

from tests.fuzz import sanitised
from tests.fuzz.rounds import Fuzz, run_round

MOST_BYTES = 6 << 30
"""Address space, so that an input that uses up memory is a fault and not the end of the machine."""


class _Formatter(logging.Handler):
    """Formats every message of the log, as a real handler would, and keeps none."""

    def emit(self, record: logging.LogRecord) -> None:
        """Format a message; an error in it is a fault of the round."""
        self.format(record)


def main(module: str, name: str, seed: str, first: str, last: str, seconds: str, faults: str) -> None:
    """Run the rounds of a module from ``first`` up to ``last``, until the time is over; at least one."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    faulthandler.enable()
    logging.basicConfig(level=logging.DEBUG, handlers=[_Formatter()])
    if not sanitised.use():  # which reserves terabytes of address space
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    fuzz: Fuzz = importlib.import_module(f"tests.fuzz.{module}").fuzz
    end_s = time.monotonic() + float(seconds)
    for number in range(int(first), int(last)):
        print(json.dumps({"begin": number}), file=output)
        one = run_round(fuzz, name, int(seed), number)
        for position, fault in enumerate(one.faults):
            fault.save(Path(faults) / f"{name}-{seed}-{number}-{position}")
        texts = [fault.text for fault in one.faults]
        print(json.dumps({"end": number, "comparisons": one.comparisons, "faults": texts}), file=output)
        if time.monotonic() > end_s:
            break


if __name__ == "__main__":
    main(*sys.argv[1:])
