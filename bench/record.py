"""All measurements, written as results of record. Runs as ``python -m bench.record DIRECTORY``, as root.

Every result is written as JSON, that of the replays also as a page with plots. `bench/results/` keeps them;
`sensor bench compare` shows the changes between two of them. Measuring takes half an hour, in
which nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from sensor.bench.traffic.frames import write_capture
from sensor.bench.traffic.profiles import PROFILES, generate

PYTHON = (sys.executable, "-m")
READ_FRAMES, READ_MATCHING = 200_000, 0.001


def measurements(directory: Path, capture: Path) -> dict[str, list[str]]:
    """Return the module and its arguments for each result, by the name of the result."""
    page = str(directory / "replay.html")
    bench_commands = {
        "kernel": ["kernel"],
        "reaching": ["kernel", "--capture", str(capture)],
        "ring": ["ring"],
        "match": ["match"],
        "read": ["read", str(capture)],
        "replay": ["replay", "--profile", "office", "--workers", "1", "--workers", "2", "--report", page],
        "replay-live": ["replay", "--profile", "office", "--generator", "live"],
        "replay-attack": ["replay", "--profile", "attack"],
        "store": ["store"],
    }
    return {name: ["sensor", "bench", *words] for name, words in bench_commands.items()} | {
        "peers": ["bench.peers"]
    }


def main() -> int:
    """Run one measurement after the other, and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.record", description="Run all measurements, and write their results."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("only", nargs="*", metavar="NAME", help="measurements to run (default: all)")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sensor-record-") as temporary:
        capture = Path(temporary) / "office.pcap"
        write_capture(capture, generate(PROFILES["office"], 1, READ_FRAMES, READ_MATCHING))
        for name, words in measurements(arguments.directory, capture).items():
            if arguments.only and name not in arguments.only:
                continue
            print(f"{name} ...", flush=True)
            done = subprocess.run([*PYTHON, *words, "--json"], stdout=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"{name}: failed", file=sys.stderr)
                return done.returncode
            (arguments.directory / f"{name}.json").write_text(done.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
