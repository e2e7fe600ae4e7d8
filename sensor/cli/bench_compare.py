"""``sensor bench compare``: two results of measurements side by side."""

from __future__ import annotations

from pathlib import Path

import click

from sensor.cli.terminal import print_json, print_line

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("compare")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare_command(before: Path, after: Path, as_json: bool) -> None:
    """Compare two results: show which figures changed beyond noise.

    BEFORE and AFTER are files written with --json.
    """
    from sensor.bench.compare import compare, differences, load

    results = load(before), load(after)
    changes, notes = compare(*results), list(differences(*results))
    if as_json:
        rows = [{**change._asdict(), "ratio": round(change.ratio, 3)} for change in changes]
        print_json({"notes": notes, "figures": rows}, indent=2)
        return
    for note in notes:
        print_line(f"note: {note}")
    for change in changes:
        verdict = "changed" if change.is_beyond_noise else "within noise"
        print_line(
            f"{change.name:<60}{change.before:>14,g}{change.after:>14,g}{change.ratio:>8.2f}x  {verdict}"
        )
