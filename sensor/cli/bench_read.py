"""``sensor bench read``: what reading a capture file costs."""

from __future__ import annotations

from pathlib import Path

import click

from sensor.cli.terminal import print_json, print_line
from sensor.config.loading import load_settings


@click.command("read")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="Measure roughly and quickly.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def read_file_command(file: Path, quick: bool, as_json: bool) -> None:
    """Measure what `sensor read` costs per frame of FILE.

    Uses your settings. The start, which loads the rules, is not included.
    """
    from sensor.bench.file_reading import measure

    found = measure(file, load_settings({}), quick=quick)
    if as_json:
        print_json(found, indent=2)
        return
    spread = found["user_us_per_frame_spread"]
    print_line(f"{found['frames']:,} frames, {found['matched']:,} matched")
    print_line(f"{found['frames_per_second']:,.0f} frames/s")
    print_line(f"{spread['median']} us of user CPU time per frame ({spread['least']} to {spread['most']})")
