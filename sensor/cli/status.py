"""``sensor status``: the figures of a running sensor, updated on the terminal, printed once, or as JSON."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sensor.cli.setting_options import setting_options
from sensor.cli.terminal import print_json
from sensor.config.loading import load_settings
from sensor.errors import SensorError, SettingsError

if TYPE_CHECKING:
    from sensor.metrics.figures import Figures

INTERVAL_S = 1.0
HISTORY = 60
"""Number of rates in the sparkline."""
SILENT_S = 10.0
"""Seconds without a heartbeat after which the supervisor is shown as silent."""
_BARS = "▁▂▃▄▅▆▇█"
_STAGES = {
    "seen": "",
    "ignored": "no rule can match",
    "submitted": "candidates",
    "submit_failed": "LOST",
    "undecodable": "",
    "unmatched": "",
    "sampled": "overload: costly sources",
    "quarantined": "workers die of them",
    "context": "after a match",
    "matched": "",
    "written": "in a file",
    "suppressed": "above suppress_above",
    "write_failed": "LOST: not written",
}


@click.command("status")
@setting_options("status")
@click.option("--once", is_flag=True, help="Print the figures once, with rates measured over one second.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures once, as one JSON object.")
def status_command(config: Path | None, metrics: str | None, once: bool, as_json: bool) -> None:
    """Show what a running sensor sees, loses and finds, until Ctrl-C.

    If standard output is not a terminal, print the figures once.
    """
    address = load_settings({"metrics": metrics}, config).metrics
    if not address:
        raise SettingsError(
            "metrics are turned off in these settings; give the running sensor's address with --metrics"
        )
    console = Console()
    if not (as_json or once) and console.is_terminal:
        _watch(address, console)
        return
    before, now = _twice(address)
    if as_json:
        print_json(_object(before, now))
    else:
        console.print(_screen(before, now))


def _object(before: Figures, now: Figures) -> dict[str, Any]:
    from sensor.metrics.figures import as_object  # slow to import

    return as_object(before, now)


def _ask(address: str) -> Figures:
    from sensor.metrics.figures import ask

    return ask(address)


def _twice(address: str) -> tuple[Figures, Figures]:
    before = _ask(address)
    time.sleep(INTERVAL_S)
    return before, _ask(address)


def _watch(address: str, console: Console) -> None:
    """Redraw the screen until interrupted; if the sensor stops, wait until it is back."""
    before = _ask(address)
    history: deque[float] = deque(maxlen=HISTORY)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(INTERVAL_S)
            try:
                now = _ask(address)
            except SensorError as error:
                live.update(Text(str(error), style="bold red"), refresh=True)
                continue
            live.update(_screen(before, now, history), refresh=True)
            before = now


def _screen(before: Figures, now: Figures, history: deque[float] | None = None) -> Group:
    found = _object(before, now)
    parts: list[Text | Table] = [_head(found), _stage_table(found), _details(found)]
    if history is not None:
        history.append(found["seen"]["frames_per_second"] or 0.0)
        parts.insert(1, Text(f"{sparkline(history)}  frames/s, at most {max(history):,.0f}", style="cyan"))
    return Group(*parts)


def _head(found: dict[str, Any]) -> Text:
    state = found["state"]
    text = Text(f"sensor: {state}", style="bold green" if state == "capturing" else "bold yellow")
    if found["started_s"]:
        text.append(f" for {time.time() - found['started_s']:,.0f} s", style="default")
    silent_s = time.time() - (found["heartbeat_s"] or 0.0)
    faults = {
        f"supervisor silent for {silent_s:.0f} s": silent_s > SILENT_S,
        "the last reload failed, the rules before it are in use": found["rules_stale"],
        "workers missing": (found["workers_alive"] or 0) < (found["workers"] or 0),
        f"figures missing: {', '.join(found['figures_missing'])}": found["figures_missing"],
    }
    for fault in (text_of for text_of, is_so in faults.items() if is_so):
        text.append(f"\n{fault}", style="bold red")
    return text


def _stage_table(found: dict[str, Any]) -> Table:
    """Return the table of frames, a row for each stage."""
    table = Table("", "frames", "frames/s", "Mb/s", "", box=None, header_style="bold")
    for column in table.columns[1:4]:
        column.justify = "right"
    lost = {cause.replace("_", " "): frames for cause, frames in found["submit_failed_by_cause"].items()}
    causes = ", ".join(f"{cause} {number(frames)}" for cause, frames in lost.items() if frames)
    remarks = _STAGES | {"submit_failed": f"LOST: {causes}" if causes else "LOST"}
    for stage, remark in remarks.items():
        counted = found[stage]
        is_lost = remark.startswith("LOST") and counted["frames"]
        bits = counted.get("bits_per_second")
        table.add_row(
            stage,
            number(counted["frames"]),
            number(counted["frames_per_second"]),
            number(bits / 1e6, 1) if bits is not None else "",
            remark,
            style="bold red" if is_lost else None,
        )
    return table


def _details(found: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False)
    for name, one in found["interfaces"].items():
        bits, seen, lost = one["bits_per_second"], one["seen"], one["submit_failed"]["frames"]
        table.add_row(
            name,
            f"{number(None if bits is None else bits / 1e6, 1)} Mb/s received, "
            f"{number(seen['frames_per_second'])} frames/s seen, {number(lost)} lost"
            + ("" if one["carrier"] else ", no carrier" if one["attached"] else ", INTERFACE LOST"),
            style=None if one["attached"] and one["carrier"] and not lost else "bold red",
        )
    fill = found["ring_fill_by_cpu"]
    if fill:
        fullest = max(fill, key=fill.__getitem__)
        table.add_row(
            "rings", f"{sparkline(fill.values(), 1.0)}  fullest: CPU {fullest}, {fill[fullest]:.0%}"
        )
    costly = {address: one for address, one in found["costly_sources"].items() if address != "other"}
    if costly:
        is_sampled = any((one["matched_ratio"] or 0) < 1 for one in costly.values())
        table.add_row("costliest", _costly(costly), style="bold red" if is_sampled else None)
    alive, workers = number(found["workers_alive"]), number(found["workers"])
    table.add_row("workers", f"{alive} of {workers}, restarts: {number(found['worker_restarts'])}")
    table.add_row("rules", f"{number(found['rules'])} ({(found['rules_digest'] or 'unknown')[:12]})")
    matches = ", ".join(
        f"{name} {number(count)}" for name, count in found["matches_by_class"].items() if count
    )
    table.add_row("matches", matches or "none")
    flows = found["flow_table"]
    evicted = number(flows["begun_by_place"].get("evicted"))
    table.add_row(
        "flows", f"{number(flows['entries'])} of {number(flows['capacity'])} places used, {evicted} evicted"
    )
    conversations, reach_s = found["conversations"], found["history"]["reach_s"]
    refused = sum(conversations["refused_by_budget"].values())
    table.add_row(
        "conversations",
        f"{number(conversations['opened'])} kept, {number(conversations['open'])} open, "
        f"{number(refused)} above a budget; "
        + ("no history" if reach_s is None else f"history of {number(reach_s)} s"),
    )
    for receiver, one in found["events"].items():
        away = "" if one["connected"] else "DISCONNECTED, "
        counts = ", ".join(f"{number(one[what])} {what}" for what in ("sent", "waiting", "lost"))
        is_healthy = one["connected"] and not one["lost"]
        table.add_row("events", f"{away}{counts}: {receiver}", style=None if is_healthy else "bold red")
    table.add_row("index", _index(found), style="bold red" if found["index_failures"] else None)
    replaced = _replaced(found)
    table.add_row("replaced files", replaced or "none", style="bold red" if replaced else None)
    if found["disk_size_bytes"]:
        free, size = found["disk_free_bytes"], found["disk_size_bytes"]
        table.add_row("disk", f"{free / 2**30:,.1f} GiB of {size / 2**30:,.1f} GiB free ({free / size:.0%})")
    return table


def _costly(sources: dict[str, dict[str, float | None]]) -> str:
    """Return the costliest sources, with what each asks for and the part of its packets that is matched."""
    texts = []
    for address, one in sources.items():
        cpu, matched = (one[name] or 0.0 for name in ("cpu_ratio", "matched_ratio"))
        texts.append(f"{address} {cpu:.0%} of a CPU" + (f", {matched:.0%} matched" if matched < 1 else ""))
    return "; ".join(texts)


def _index(found: dict[str, Any]) -> str:
    missing = found["reindex_remaining_bytes"]
    state = {
        None: "?",
        True: "complete",
        False: f"incomplete, {number(missing)} bytes of files left to index",
    }
    failures = f", {number(found['index_failures'])} failures" if found["index_failures"] else ""
    waiting = number(found["index_waiting_rows"])
    return f"{state[found['index_complete']]}, {waiting} packets waiting{failures}"


def _replaced(found: dict[str, Any]) -> str:
    """Return the files that somebody removed or replaced while they were open."""
    counts = {"of evidence": found["evidence_files_replaced"]}
    counts |= {receiver: one["file_replaced"] for receiver, one in found["events"].items()}
    return ", ".join(f"{number(count)} {what}" for what, count in counts.items() if count)


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with thousands separators, or a question mark for an unknown one."""
    return "?" if value is None else f"{value:,.{digits}f}"


def sparkline(values: Any, top: float | None = None) -> str:
    """Return a bar for each value; the highest bar stands for ``top``, or for the largest value."""
    found = list(values)
    top = top or max(found) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int(value / top * len(_BARS)))] for value in found)
