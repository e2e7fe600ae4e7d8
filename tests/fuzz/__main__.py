"""Run the fuzzers: ``python -m tests.fuzz [NAME…] --seconds 3600 --seed 1``. ``make fuzz`` does so.

A round is repeated with ``python -m tests.fuzz NAME --seed SEED --round NUMBER``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sensor.capture.program import check_privileges
from sensor.errors import PrivilegeError
from tests.fuzz import sanitised
from tests.fuzz.campaign import Campaign, Result
from tests.fuzz.fuzzers import FUZZERS, Fuzzer

_SHOWN_LINES = 20
"""Lines of a fault that are printed; all of them are in a file."""


def main() -> int:
    """Run the fuzzers that the command line names, and return 1 if there are faults."""
    given = _arguments()
    chosen = [one for one in FUZZERS.values() if one.name in (given.names or FUZZERS) and _can_run(one)]
    with tempfile.TemporaryDirectory(prefix="sensor-fuzz-") as directory:
        library = sanitised.build(Path(directory)) if any(one.is_sanitised for one in chosen) else None
        campaign = Campaign(given.seed, given.faults, library)
        seconds = given.seconds * given.jobs / max(len(chosen), given.jobs)
        first = 0 if given.round is None else given.round
        last = 1 << 62 if given.round is None else given.round + 1
        print(f"seed {given.seed}, {seconds:.0f} s per fuzzer, {given.jobs} at a time", flush=True)

        def run(fuzzer: Fuzzer) -> Result:
            started_s = time.monotonic()
            result = campaign.run(fuzzer, seconds, first, last)
            _print_result(fuzzer, result, time.monotonic() - started_s)
            return result

        signal.signal(signal.SIGINT, lambda *_: campaign.stop())
        with ThreadPoolExecutor(given.jobs) as pool:
            results = list(pool.map(run, chosen))
    faults = sum(len(result.faults) for result in results)
    print(f"{sum(result.comparisons for result in results):,} comparisons, {faults} faults")
    if faults:
        print(f"inputs are in {given.faults}; again: python -m tests.fuzz NAME --seed {given.seed} --round N")
    return int(faults > 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Run the fuzzers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FUZZERS))
    parser.add_argument("--seconds", type=float, default=60, help="of wall time, for all together")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--round", type=int, help="run only this round")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="fuzzers at a time")
    parser.add_argument(
        "--faults", type=Path, default=Path("fuzz-faults"), help="directory for failing inputs"
    )
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in FUZZERS]:
        parser.error(f"there is no fuzzer {unknown[0]}; name some of {', '.join(FUZZERS)}")
    return given


def _can_run(fuzzer: Fuzzer) -> bool:
    """Return False if this user may not load eBPF and the fuzzer has to."""
    try:
        if fuzzer.needs_kernel:
            check_privileges()
    except PrivilegeError as error:
        print(f"{fuzzer.name:24} skipped: {error}")
        return False
    return True


def _print_result(fuzzer: Fuzzer, result: Result, seconds: float) -> None:
    print(
        f"{fuzzer.name:24} {seconds:6.0f} s {result.rounds:7} rounds {result.comparisons:14,} comparisons "
        f"{len(result.faults):4} faults",
        flush=True,
    )
    for text in result.faults:
        lines = text.splitlines()
        print(*lines[:_SHOWN_LINES], *["…"] * (len(lines) > _SHOWN_LINES), sep="\n    ", flush=True)


if __name__ == "__main__":
    sys.exit(main())
