"""Write a capture of generated traffic. Runs as ``python -m sensor.bench.traffic PROFILE OUT.pcap``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.bench.traffic.profiles import PROFILES, generate

DEMO = "demo"


def main() -> None:
    """Generate the frames, write them, and print their number."""
    parser = argparse.ArgumentParser(
        prog="python -m sensor.bench.traffic", description="Write a capture of generated traffic."
    )
    parser.add_argument("profile", choices=[DEMO, *PROFILES], metavar="PROFILE", help=_profiles())
    parser.add_argument("capture", type=Path, metavar="OUT.pcap")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same bytes (default 1)")
    parser.add_argument(
        "--frames", type=int, default=100_000, help="number of frames, except of demo (default 100,000)"
    )
    parser.add_argument(
        "--matching", type=_share, help="share of frames made to match, 0 to 1, except of demo"
    )
    parser.add_argument(
        "--expect", type=Path, metavar="OUT.json", help="write the expected matches, of demo only"
    )
    arguments = parser.parse_args()
    if arguments.profile == DEMO:
        frames = _demo(arguments.seed, arguments.expect)
    else:
        frames = generate(PROFILES[arguments.profile], arguments.seed, arguments.frames, arguments.matching)
    write_capture(arguments.capture, frames)
    print(f"{len(frames)} frames: {arguments.capture}")


def _demo(seed: int, expect: Path | None) -> list[Frame]:
    traffic = mix.demo(seed)
    if expect:
        expected = [entry._asdict() for entry in traffic.expected]
        expect.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    return traffic.frames


def _profiles() -> str:
    return "; ".join(
        ["demo: office traffic with every attack once"]
        + [f"{name}: {profile.description}" for name, profile in PROFILES.items()]
    )


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return share


if __name__ == "__main__":
    main()
