"""``python -m bench.traffic OUT.pcap``: write a capture of generated traffic."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.traffic import mix
from bench.traffic.frames import write_capture


def main() -> None:
    """Generate, write, and say how much it was."""
    parser = argparse.ArgumentParser(prog="python -m bench.traffic", description=__doc__)
    parser.add_argument("capture", type=Path, metavar="OUT.pcap")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same bytes (default 1)")
    parser.add_argument(
        "--expect", type=Path, metavar="OUT.json", help="write what a sensor should find in it"
    )
    arguments = parser.parse_args()
    traffic = mix.demo(arguments.seed)
    write_capture(arguments.capture, traffic.frames)
    if arguments.expect:
        expected = [entry._asdict() for entry in traffic.expected]
        arguments.expect.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    print(f"{len(traffic.frames)} frames, {len(traffic.expected)} attacks and banners: {arguments.capture}")


if __name__ == "__main__":
    main()
