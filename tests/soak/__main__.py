"""Run a sensor while everything around it goes wrong: ``python -m tests.soak``. ``make soak`` does so.

It runs in network and mount namespaces of its own, with file systems in files. Only taking a CPU off line
concerns the whole machine. The exit code is 1 if counters do not add up or evidence is damaged at the end.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.config.settings import BUNDLED_RULES
from tests.soak.faults import NAMES, FaultMaker
from tests.soak.site import Site, make_ports, traffic_on_ports
from tests.soak.verdict import faults_of
from tests.soak.wrong_clock import clock_steps

_INSIDE = "SOAK_INSIDE"
_THREADS = 2
_CLOCK_REST = 5
"""The clock is set wrong less often than other faults happen."""


def main() -> int:
    """Soak a sensor, print what is wrong, and return 1 if there is anything."""
    given = _arguments()
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "1"
        inside = [sys.executable, "-m", "tests.soak", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", "--", *inside])  # noqa: S606 - no shell is meant
    directory = Path(tempfile.mkdtemp(prefix="sensor-soak-"))
    directory.chmod(0o755)  # the API reads evidence below it
    print(f"seed {given.seed}, {given.seconds:g} s, in {directory}", flush=True)
    faults = _soak(directory, given)
    for line in faults:
        print("FAULT:", line)
    if faults:
        print(f"the log is {directory / 'log'}")
        return 1
    shutil.rmtree(directory)
    print("no faults")
    return 0


def _soak(directory: Path, given: argparse.Namespace) -> list[str]:
    capture = directory / "traffic.pcap"
    write_capture(capture, mix.demo(seed=given.seed).frames)
    make_ports()
    site = Site(directory, given.disk_mib, given.rules)
    steps = clock_steps(random.Random(given.seed), given.seconds, _CLOCK_REST * given.rest)
    site.start(steps)
    maker = FaultMaker(site, tuple(given.faults or NAMES), given.rest, given.seed)
    threads = [threading.Thread(target=maker.run_thread, args=(number,)) for number in range(_THREADS)]
    try:
        with traffic_on_ports(capture):
            for thread in threads:
                thread.start()
            while site.is_running and site.elapsed_s < given.seconds:
                site.over.wait(0.2)
            site.over.set()
            for thread in threads:
                thread.join()
    finally:
        code = site.stop()
    print(", ".join(f"{name} {count}" for name, count in maker.counts.items()))
    print("counters:", site.counters())
    return [*maker.errors, *faults_of(site, code)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Soak a sensor in faults.")
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=3600, help="how long")
    parser.add_argument("--rest", type=float, default=4, help="seconds between faults, on average")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--disk-mib", type=int, default=2048)
    parser.add_argument("--rules", type=Path, default=BUNDLED_RULES)
    given = parser.parse_args()
    if unknown := [name for name in given.faults if name not in NAMES]:
        parser.error(f"there is no fault {unknown[0]}; name some of {', '.join(NAMES)}")
    return given


if __name__ == "__main__":
    sys.exit(main())
