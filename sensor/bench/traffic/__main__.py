"""``python -m sensor.bench.traffic PROFILE OUT.pcap``: write a capture of generated traffic."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.bench.traffic.profiles import PROFILES, generate

DEMO = "demo"


def main() -> None:
    """Generate, write, and say how much it was."""
    parser = argparse.ArgumentParser(prog="python -m sensor.bench.traffic", description=__doc__)
    parser.add_argument("profile", choices=[DEMO, *PROFILES], metavar="PROFILE", help=_profiles())
    parser.add_argument("capture", type=Path, metavar="OUT.pcap")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same bytes (default 1)")
    parser.add_argument("--frames", type=int, default=100_000, help="how many; not of demo (default 100,000)")
    parser.add_argument("--matching", type=_share, help="share of frames made to match, 0 to 1; not of demo")
    parser.add_argument(
        "--expect", type=Path, metavar="OUT.json", help="write what a sensor should find; of demo only"
    )
    arguments = parser.parse_args()
    if arguments.profile == DEMO:
        made = _demo(arguments.seed, arguments.expect)
    else:
        made = generate(PROFILES[arguments.profile], arguments.seed, arguments.frames, arguments.matching)
    write_capture(arguments.capture, made)
    print(f"{len(made)} frames: {arguments.capture}")


def _demo(seed: int, expect: Path | None) -> list[Frame]:
    traffic = mix.demo(seed)
    if expect:
        expected = [entry._asdict() for entry in traffic.expected]
        expect.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    return traffic.frames


def _profiles() -> str:
    return "; ".join(["demo: every attack once"] + [f"{name}: {one.about}" for name, one in PROFILES.items()])


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError("a share is from 0 to 1")
    return share


if __name__ == "__main__":
    main()
