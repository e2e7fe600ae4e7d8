"""``sensor bench replay``: what this host can take of some traffic."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sensor.bench.traffic.frames import write_capture
from sensor.bench.traffic.profiles import PROFILES, generate
from sensor.config.settings import load_settings
from sensor.errors import SettingsError

FRAMES, QUICK_FRAMES = 200_000, 10_000
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command("replay")
@click.argument("files", nargs=-1, type=_FILE, metavar="[FILE]...")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Choice(list(PROFILES)),
    help="Generated traffic.  [office]",
)
@click.option(
    "--frames", type=click.IntRange(1000), help=f"Of a profile.  [{FRAMES:,}; quick: {QUICK_FRAMES:,}]"
)
@click.option("--matching", type=click.FloatRange(0, 1), help="Share of a profile's frames made to match.")
@click.option("--seed", type=int, default=1, help="Of the profiles.  [1]")
@click.option("--workers", multiple=True, type=click.IntRange(1), help="Workers, and CPUs that send.  [1]")
@click.option(
    "--generator", type=click.Choice(["tcpreplay", "live"]), default="tcpreplay",
    help="What sends; live: the kernel, much faster.  [tcpreplay]",
)  # fmt: skip
@click.option("--interface", help="Capture here, not on a private wire ...")
@click.option("--peer", help="... what is sent from here: a cable connects them, and nothing else.")
@click.option("--directory", type=_DIRECTORY, help="Where evidence goes meanwhile.  [/tmp]")
@click.option("--report", type=_OUT, help="Write a page with plots, too.")
@click.option("--quick", is_flag=True, help="A rough answer in about a minute for each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def replay_command(
    files: tuple[Path, ...],
    profiles: tuple[str, ...],
    interface: str | None,
    peer: str | None,
    workers: tuple[int, ...],
    report: Path | None,
    as_json: bool,
    quick: bool,
    frames: int | None,
    **options: Any,
) -> None:
    """Find the highest rate of some traffic at which no frame is lost, and what it costs.

    Each FILE is traffic of its own. Both sending and capturing take place here, unless --interface
    and --peer name two ends of a cable.
    """
    from sensor.bench.html_report import page
    from sensor.bench.replay import FULL, QUICK, Traffic, measure
    from sensor.bench.wire import looped_wire, private_wire

    if (interface is None) != (peer is None):
        raise SettingsError("--interface and --peer go together: where to capture, and where to send from")
    effort = QUICK if quick else FULL
    names = profiles or (() if files else ("office",))
    counts = workers or (1,)
    end_as_by_ctrl_c()
    with tempfile.TemporaryDirectory(prefix="sensor-bench-", dir=options["directory"]) as temporary:
        traffic = [Traffic(path.name, [path]) for path in files]
        with _progress((effort.trials * len(counts) + 1) * (len(files) + len(names))) as step:
            for name in names:
                step(f"generating {name}")
                path, count = Path(temporary) / f"{name}.pcap", frames or (QUICK_FRAMES if quick else FRAMES)
                frames_made = generate(PROFILES[name], options["seed"], count, options["matching"])
                write_capture(path, frames_made)
                traffic.append(Traffic(name, [path]))
            found = measure(
                traffic,
                looped_wire(interface, peer) if interface and peer else private_wire(),
                effort,
                step,
                workers=counts,
                generator=options["generator"],
                directory=Path(temporary),
            )
    if report:
        report.write_text(page(found), encoding="utf-8")
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(replay_lines(found)))


@click.command("read")
@click.argument("file", type=_FILE)
@click.option("--quick", is_flag=True, help="A rough answer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def read_file_command(file: Path, quick: bool, as_json: bool) -> None:
    """What sensor read spends on a frame of FILE, its start apart; as the settings say."""
    from sensor.bench.file_reading import measure

    found = measure(file, load_settings({}), quick=quick)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    spread = found["user_us_per_frame_spread"]
    click.echo(f"{found['frames']:,} frames, {found['matched']:,} matched")
    click.echo(f"{found['frames_per_second']:,.0f} frames/s")
    click.echo(f"{spread['median']} us of CPU in user mode a frame ({spread['least']} to {spread['most']})")


@click.command("compare")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare_command(before: Path, after: Path, as_json: bool) -> None:
    """Say what changed beyond noise between two results that were written with --json."""
    from sensor.bench.compare import compare, differences, load

    results = load(before), load(after)
    changes, notes = compare(*results), list(differences(*results))
    if as_json:
        rows = [{**change._asdict(), "ratio": round(change.ratio, 3)} for change in changes]
        click.echo(json.dumps({"notes": notes, "figures": rows}, indent=2))
        return
    for note in notes:
        click.echo(f"note: {note}")
    for change in changes:
        verdict = "changed" if change.is_beyond_noise else "within noise"
        click.echo(
            f"{change.name:<60}{change.before:>14,g}{change.after:>14,g}{change.ratio:>8.2f}x  {verdict}"
        )


def end_as_by_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP clean up, too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """Draw what goes on, and about how long it still takes, where there is a terminal."""
    terminal = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("", total=total)

        def step(what: str) -> None:
            progress.update(task, description=what, advance=1)

        yield step


def replay_lines(found: dict[str, Any]) -> Iterator[str]:
    """Print a paragraph for each traffic and number of workers."""
    where = found["machine"]
    yield f"{where['cpu']}, {where['cpus']} CPUs, Linux {where['kernel']}, Python {where['python']}"
    for warning in found["warnings"]:
        yield f"warning: {warning}; figures are rough"
    for row in found["rows"]:
        yield ""
        yield from _row(row)


def _row(row: dict[str, Any]) -> Iterator[str]:
    workers = "1 worker" if row["workers"] == 1 else f"{row['workers']} workers"
    yield f"{row['traffic']}, {workers}: {row['frames']:,} frames of {row['bytes_per_frame']:g} bytes"
    spread = row.get("zero_loss_pps_spread")
    rate = f"{row['zero_loss_pps']:,} frames/s, {row['zero_loss_gbps']:g} Gb/s"
    yield f"    {'highest rate without loss':<32}{rate if spread else 'none that was tried'}"
    if spread and spread["least"] < spread["most"]:
        yield f"    {'':<32}(from {spread['least']:,.0f} to {spread['most']:,.0f} in repeats)"
    yield f"    {'limited by':<32}{row['limited_by']}"
    ceiling = f"{row['generator_ceiling_pps']:,} frames/s to a program that drops all"
    yield f"    {row['generator'] + ' alone':<32}{ceiling}"
    if spread:
        yield f"    {'candidates':<32}{row['candidate_share']:.1%}"
    for stage, cost in row["cpu_us_per_frame"].items():
        yield f"    {'CPU of ' + stage.replace('_', ' '):<32}{cost:.3f} us/frame"
    for who, size in row["memory_mib"].items():
        yield f"    {'memory of ' + who:<32}{size:,.1f} MiB"
    evidence = row["evidence"]
    yield f"    {'kept, once and slowly':<32}{evidence['found']:,} of {evidence['expected']:,} in the file"
    if row["latency_ms"]:
        soon, late = row["latency_ms"]["p50"], row["latency_ms"]["p99"]
        yield f"    {'from wire to readable evidence':<32}{soon:g} ms (median), {late:g} ms (99 of 100)"
    if row["too_long"]:
        yield f"    {row['too_long']:,} frames were left out: longer than the interface takes"
