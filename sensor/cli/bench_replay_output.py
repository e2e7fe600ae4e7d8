"""Output of ``sensor bench replay``: its JSON object as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sensor.text import count_of


def replay_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield a paragraph for each kind of traffic and number of workers."""
    where = found["machine"]
    yield f"{where['cpu']}, {where['cpus']} CPUs, Linux {where['kernel']}, Python {where['python']}"
    for warning in found["warnings"]:
        yield f"warning: {warning}; figures are rough"
    for row in found["rows"]:
        yield ""
        yield from _row(row)


def _row(row: dict[str, Any]) -> Iterator[str]:
    workers = count_of(row["workers"], "worker")
    yield f"{row['traffic']}, {workers}: {row['frames']:,} frames of {row['bytes_per_frame']:g} bytes"
    spread = row.get("zero_loss_pps_spread")
    rate = f"{row['zero_loss_pps']:,} frames/s, {row['zero_loss_gbps']:g} Gb/s"
    yield f"    {'highest rate without loss':<34}{rate if spread else 'none: frames were lost at every rate'}"
    if spread and spread["least"] < spread["most"]:
        yield f"    {'':<34}({spread['least']:,.0f} to {spread['most']:,.0f} in repeats)"
    yield f"    {'limited by':<34}{row['limited_by']}"
    ceiling = f"{row['generator_ceiling_pps']:,} frames/s"
    yield f"    {'most that ' + row['generator'] + ' can send':<34}{ceiling}"
    if spread:
        yield f"    {'candidates':<34}{row['candidate_share']:.1%}"
    for stage, cost in row["cpu_us_per_frame"].items():
        yield f"    {'CPU time: ' + stage.replace('_', ' '):<34}{cost:.3f} us/frame"
    for process, size in row["memory_mib"].items():
        yield f"    {'memory: ' + process:<34}{size:,.1f} MiB"
    evidence = row["evidence"]
    yield f"    {'kept at a low rate':<34}{evidence['found']:,} of {evidence['expected']:,} packets"
    if row["latency_ms"]:
        median, p99 = (f"{row['latency_ms'][name]:g} ms" for name in ("p50", "p99"))
        yield f"    {'delay until evidence is readable':<34}{median} (median), {p99} (99th percentile)"
    if row["too_long"]:
        yield f"    {row['too_long']:,} frames were left out: they are longer than the interface's MTU allows"
