"""``sensor run`` and ``sensor read``: flags into settings, matches onto standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from sensor.config.settings import load_settings
from sensor.match_objects import match_line, match_objects
from sensor.model import Evidence
from sensor.read import read

Emit = Callable[[list[Evidence]], None]

_PATH = click.Path(path_type=Path)


def _unless_empty(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Tell a flag that was not given: other sources of the setting count then."""
    return values or None


_SHARED = (
    click.option("--config", type=_PATH, help="Settings file (TOML)."),
    click.option("--rules", type=_PATH, help="Directory of the rule files.  [our own]"),
    click.option("--lenient", is_flag=True, default=None, help="Skip faulty rules instead of refusing all."),
    click.option("--evidence", type=_PATH, help="Directory of the evidence files.  [/data/cap]"),
    click.option("--devid", type=int, help="Device number, part of the evidence's path.  [3]"),
    click.option(
        "--local-time", is_flag=True, default=None, help="Name evidence files in local time.  [UTC]"
    ),
    click.option(
        "--keep",
        type=click.Choice(["threat", "any", "flow"]),
        help="Keep packets that hit a threat rule, any rule, or open a flow.  [any]",
    ),
    click.option(
        "--profile",
        type=click.Choice(["default", "ly_probe", "thorough"]),
        help="How far into a flow, and what of it, is matched.  [default]",
    ),
    click.option(
        "--networks-include",
        multiple=True,
        callback=_unless_empty,
        metavar="CIDR",
        help="Match only packets from or to this network; repeat for more.",
    ),
    click.option(
        "--networks-exclude",
        multiple=True,
        callback=_unless_empty,
        metavar="CIDR",
        help="Do not match packets from or to this network; repeat for more.",
    ),
    click.option("--suppress-above", type=int, help="Pieces kept a rule, flow and second; 0: all.  [1000]"),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object a match."),
)


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SHARED):
        command = option(command)
    return command


@click.command("run")
@click.option(
    "-i",
    "--interface",
    multiple=True,
    callback=_unless_empty,
    help="Interface to capture on; repeat for more.",
)
@_shared
@click.option("--retain-days", type=int, help="Days that evidence is kept.  [unlimited]")
@click.option("--retain-gib", type=float, help="GiB of evidence that are kept.  [unlimited]")
@click.option("--retain-free-percent", type=float, help="Percent of the disk that stay free.  [5]")
@click.option(
    "--mode", type=click.Choice(["native", "generic"]), help="XDP in the driver or generic.  [native]"
)
@click.option("--action", type=click.Choice(["pass", "drop"]), help="What becomes of each frame.  [pass]")
@click.option("--workers", type=int, help="Processes that match.  [one for each receive queue]")
@click.option("--flows", type=int, help="Flows that the kernel remembers.  [1048576]")
@click.option("--ring-mib", type=int, help="Perf ring of each CPU in MiB, a power of two.  [64]")
@click.option("--snaplen", type=int, help="Most bytes kept of a frame.  [65535]")
@click.option(
    "--events", multiple=True, callback=_unless_empty, help="URL of a receiver of events; repeat for more."
)
@click.option("--events-payload", type=int, help="Most bytes of the payload in an event.  [0]")
@click.option("--events-url", help="Where the evidence API is seen from outside, for events.")
@click.option("--events-queue-mib", type=int, help="MiB of events that wait for a receiver.  [64]")
@click.option(
    "--metrics", metavar="ADDRESS:PORT", help="Where metrics are served; '': nowhere.  [127.0.0.1:9321]"
)
@click.option("--duration", type=float, help="Stop after so many seconds.")
@click.option("--api/--no-api", default=None, help="Serve the evidence too.  [--api]")
@click.option("--listen", metavar="ADDRESS:PORT", help="Where the API listens.  [127.0.0.1:8321]")
def run_command(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Capture on live interfaces until SIGINT or SIGTERM."""
    from sensor.live.run import run  # pyroute2 takes a while to import, and nothing else needs it

    settings = load_settings(flags, config)
    run(settings, _redraw if sys.stderr.isatty() else None, as_json=as_json)


def _redraw(line: str) -> None:
    sys.stderr.write(f"\r\x1b[K{line}")
    sys.stderr.flush()


@click.command("read")
@click.argument("files", nargs=-1, required=True, type=_PATH, metavar="FILE...")
@_shared
def read_command(config: Path | None, as_json: bool, files: tuple[Path, ...], **flags: Any) -> None:
    """Match pcap and pcapng files as if they came from the wire.

    Prints the matches; keeps them as evidence too when --evidence (or the setting) says where.
    """
    settings = load_settings(flags, config)
    evidence = settings.evidence if "evidence" in settings.model_fields_set else None
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("", total=sum(path.stat().st_size for path in files if path.is_file()))
        read(files, settings, evidence, _print_matches(as_json), lambda size: progress.advance(task, size))


def _print_matches(as_json: bool) -> Emit:
    def emit(items: list[Evidence]) -> None:
        for item in items:
            for found in match_objects(item, str(item.interface)):
                click.echo(json.dumps(found) if as_json else match_line(found))

    return emit
