"""``sensor bench replay``: the rate of given traffic that this host captures without loss."""

from __future__ import annotations

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
from sensor.cli.bench_replay_output import replay_lines
from sensor.cli.terminal import print_json, print_lines
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
    help="Kind of generated traffic. Repeat the flag for more.  [default: office, if no FILE is given]",
)
@click.option(
    "--frames",
    type=click.IntRange(1000),
    metavar="NUMBER",
    help=f"Frames to generate.  [default: {FRAMES:,}, or {QUICK_FRAMES:,} with --quick]",
)
@click.option(
    "--matching",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Share of the generated frames that match a rule.  [default: that of the profile]",
)
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="Seed of the traffic generator.",
)
@click.option(
    "--workers",
    multiple=True,
    type=click.IntRange(1),
    metavar="NUMBER",
    help="Workers, and CPUs that send. Repeat the flag to measure several numbers.  [default: 1]",
)
@click.option(
    "--generator",
    type=click.Choice(["tcpreplay", "live"]),
    default="tcpreplay",
    show_default=True,
    help="What sends the frames; live means the kernel, which is much faster.",
)
@click.option(
    "--interface",
    metavar="INTERFACE",
    help="Capture on this interface, which a cable connects to --peer.  [default: a private veth pair]",
)
@click.option(
    "--peer",
    metavar="INTERFACE",
    help="Send from this interface.  [default: a private veth pair]",
)
@click.option(
    "--directory",
    type=_DIRECTORY,
    metavar="DIRECTORY",
    help="Directory for temporary evidence.  [default: /tmp]",
)
@click.option("--report", type=_OUT, metavar="FILE", help="Also write an HTML page with plots.")
@click.option("--quick", is_flag=True, help="Measure roughly, about a minute for each kind of traffic.")
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
    """Find the highest rate without loss, and its cost.

    Measures each FILE (pcap or pcapng) and each generated profile separately. This host sends and captures,
    over a private veth pair, or over the cable between --interface and --peer.
    """
    from sensor.bench.effort import REPLAY_FULL, REPLAY_QUICK
    from sensor.bench.html_report import report_page
    from sensor.bench.replay import Workload, measure
    from sensor.bench.wire import looped_wire, private_wire

    if (interface is None) != (peer is None):
        raise SettingsError("give both --interface, to capture on, and --peer, to send from, or neither")
    effort = REPLAY_QUICK if quick else REPLAY_FULL
    names = profiles or (() if files else ("office",))
    counts = workers or (1,)
    interrupt_on_signals()
    with tempfile.TemporaryDirectory(prefix="sensor-bench-", dir=options["directory"]) as temporary:
        workloads = [Workload(path.name, [path]) for path in files]
        with _progress((effort.trials * len(counts) + 1) * (len(files) + len(names))) as step:
            for name in names:
                step(f"generating {name}")
                path, count = Path(temporary) / f"{name}.pcap", frames or (QUICK_FRAMES if quick else FRAMES)
                frames_made = generate(PROFILES[name], options["seed"], count, options["matching"])
                write_capture(path, frames_made)
                workloads.append(Workload(name, [path]))
            found = measure(
                workloads,
                looped_wire(interface, peer) if interface and peer else private_wire(),
                effort,
                step,
                workers=counts,
                generator=options["generator"],
                directory=Path(temporary),
            )
    if report:
        report.write_text(report_page(found), encoding="utf-8")
    if as_json:
        print_json(found, indent=2)
    else:
        print_lines(replay_lines(found))


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, so that clean-up runs."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """Draw a progress bar on a terminal; the yielded function starts the next step."""
    terminal = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("", total=total)

        def step(description: str) -> None:
            progress.update(task, description=description, advance=1)

        yield step
