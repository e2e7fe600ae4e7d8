"""What ``sensor bench`` prints: a measurement's JSON object as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Found = dict[str, Any]


def kernel_lines(found: Found) -> Iterator[str]:
    """Print a table of the kinds of frames, and what the maps take."""
    yield from _machine(found)
    yield f"median of {found['rounds']} rounds of {found['runs_a_round']:,} runs each; caches are warm"
    yield ""
    yield f"{'frame':<14}{'ended as':<22}{'ns':>6}{'xdp-filter':>12}{'ratio':>8}"
    for row in found["kinds"]:
        rival = _or_dash(row["xdp_filter_ns"], ".0f"), _or_dash(row["ratio_to_xdp_filter"], ".2f")
        yield f"{row['kind']:<14}{row['bucket']:<22}{row['ns']:>6.0f}{rival[0]:>12}{rival[1]:>8}"
    ratio = _or_dash(found["median_ratio_to_xdp_filter"], ".2f")
    yield f"{'median':<36}{found['median_ns']:>6.0f}{ratio:>20}"
    yield f"{'a candidate, up to its submission':<36}{found['candidate_ns']:>6.0f}"
    yield f"{'an empty program (in all of these)':<36}{found['empty_program_ns']:>6.0f}"
    if found["xdp_filter_absent"]:
        yield found["xdp_filter_absent"]
    yield ""
    memory = found["memory"]
    yield f"maps: {memory['bytes'] / 2**20:,.1f} MiB with {memory['flows']:,} flows"
    for name, size in memory["maps"].items():
        yield f"    {name:<14}{size / 2**20:>10,.2f} MiB"
    yield "with as many flows:"
    for flows, size in memory["bytes_by_flows"].items():
        yield f"    {int(flows):<14,}{size / 2**20:>10,.2f} MiB"


def judged_lines(found: Found) -> Iterator[str]:
    """Print how many frames of a capture reach Python, and why the others do not."""
    total = max(found["frames"], 1)
    yield f"{found['frames']:,} frames of {found['capture']}"
    yield f"    {'reach Python':<24}{found['candidates']:>12,}{found['candidates'] / total:>8.1%}"
    for reason, count in found["ignored"].items():
        yield f"    {'ignored: ' + reason.replace('_', ' '):<24}{count:>12,}{count / total:>8.1%}"
    if found["too_long"]:
        yield f"    {found['too_long']:,} more are too long to be tried this way"


def ring_lines(found: Found) -> Iterator[str]:
    """Print what reading costs, and the rates without loss."""
    yield from _machine(found)
    yield f"frames of {found['frame_bytes']} bytes that hit no rule; the machine that reads sends them, too"
    reading = found["reading"]
    yield ""
    yield f"reading {reading['records_waiting']:,} records that wait, us of CPU a record:"
    yield f"    {'sensor':<12}{_figure(reading['cpu_us_a_record'], '.3f')}"
    yield f"    {'BCC':<12}{_figure(reading['bcc_cpu_us_a_record'], '.3f')}"
    yield f"    {'ratio':<12}{_figure(reading['ratio_to_bcc'], '.3f')}"
    yield "reading while frames arrive as fast as they can be sent:"
    titles = ("offered/s", "read/s", "sent", "lost on wire", "lost in ring", "us/record")
    yield f"    {'':<12}" + "".join(f"{title:>14}" for title in titles)
    for row in reading["live"]:
        rates = (row[name]["median"] for name in ("offered_per_second", "delivered_per_second"))
        counts = row["sent"], row["sent"] - row["seen"], row["lost"]
        numbers = "".join(f"{number:>14,.0f}" for number in (*rates, *counts))
        yield f"    {row['reader']:<12}{numbers}{row['cpu_us_a_record']['median']:>14.3f}"
    for row in found["through_match"]:
        yield ""
        yield from _through(row)


def _through(row: Found) -> Iterator[str]:
    without = "the highest rate without loss" if row["is_without_loss"] else "never without loss"
    yield f"through the matcher, workers: {row['workers']}, {without}:"
    yield f"    {'offered/s':<24}{_figure(row['offered_per_second'], ',.0f')}"
    yield f"    {'matched against all/s':<24}{_figure(row['through_per_second'], ',.0f')}"
    for stage in ("sent", "lost_on_wire", "seen", "ignored", "lost_in_ring", "read", "undecodable"):
        yield f"    {stage.replace('_', ' '):<24}{row[stage]:,}"
    yield f"    {'unmatched, matched':<24}{row['unmatched']:,}, {row['matched']:,}"
    for who, cost in row["cpu_us_a_frame"].items():
        yield f"    {who.replace('_', ' ') + ', us':<24}{_figure(cost, '.3f')}"
    unpaced = row["unpaced"]
    yield "    as fast as frames can be sent:"
    for name, value in unpaced.items():
        yield f"        {name.replace('_', ' ').replace(' per second', '/s'):<20}{value:,}"


def match_lines(found: Found) -> Iterator[str]:
    """Print a table for each rule set."""
    yield from _machine(found)
    yield f"payloads of {found['payload_bytes']} bytes, us of CPU a candidate: the least of many rounds"
    for one in found["sets"]:
        yield ""
        yield f"{one['rules']:,} rules, compiled in {one['compile_s']} s to {one['database_mib']} MiB"
        names = [name for name in next(iter(one["payloads"].values())) if not name.startswith("ratio_")]
        yield f"    {'':<13}" + "".join(f"{name.removesuffix('_us'):>9}" for name in names)
        for kind, costs in one["payloads"].items():
            yield f"    {kind:<13}" + "".join(f"{costs[name]:>9g}" for name in names)


def store_lines(found: Found, indent: str = "") -> Iterator[str]:
    """Print every figure with its name."""
    if not indent:
        yield from _machine(found)
    for name, value in found.items():
        title = f"{indent}{name.replace('_', ' ')}"
        if name == "machine":
            continue
        if isinstance(value, dict):
            yield title
            yield from store_lines(value, f"{indent}    ")
        else:
            yield f"{title:<48}{value:>12,}"


def _machine(found: Found) -> Iterator[str]:
    where = found["machine"]
    yield f"{where['cpu']}, {where['cpus']} CPUs, Linux {where['kernel']}, Python {where['python']}"
    yield f"busy with others: {where['busy_with_others_percent']} % (above some percent, figures are rough)"


def _figure(figure: Found, form: str) -> str:
    median, least, most = (format(figure[name], form) for name in ("median", "least", "most"))
    return f"{median}  ({least} to {most})"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
