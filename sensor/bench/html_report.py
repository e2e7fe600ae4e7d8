"""A result of ``sensor bench replay`` as an HTML page with plots that loads nothing from elsewhere.

Runs in ``sensor bench replay``.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from sensor.text import count_of

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 260, 70, 40, 20
_COLOURS = {
    "kernel": "#4c78a8",
    "workers": "#f58518",
    "supervisor": "#54a24b",
    "indexer": "#b279a2",
    "other": "#bbbbbb",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } svg { width: 100%; height: auto }
.warning { background: #fff3cd; padding: .4rem .8rem }
"""
_Point = tuple[float, float]


def report_page(found: dict[str, Any]) -> str:
    """Return the page as HTML."""
    where = found["machine"]
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>sensor bench replay</title>',
        f"<style>{_STYLE}</style><h1>sensor bench replay</h1>",
        f"<p>{escape(where['cpu'])}, {where['cpus']} CPUs, Linux {escape(where['kernel'])}, ",
        f"Python {escape(where['python'])}, sensor {escape(where['sensor'])}; ",
        f"trials of {found['trial_seconds']:g} s</p>",
    ]
    parts += [
        f'<p class="warning">{escape(warning)}; figures are rough.</p>' for warning in found["warnings"]
    ]
    for row in found["rows"]:
        parts += _section(row)
    return "".join(parts)


def _section(row: dict[str, Any]) -> Iterator[str]:
    workers = count_of(row["workers"], "worker")
    yield f"<h2>{escape(row['traffic'])}, {workers}</h2><table>"
    for name, value in _facts(row):
        yield f'<tr><th>{escape(name)}</th><td class="n">{escape(value)}</td></tr>'
    yield "</table><h3>Loss by offered rate</h3>"
    yield _loss_plot(row["trials"], row["zero_loss_pps"])
    if row["cpu_us_per_frame"]:
        yield "<h3>CPU time per frame, by stage</h3>"
        yield _cpu_plot(row["cpu_us_per_frame"])


def _facts(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "highest rate without loss", f"{row['zero_loss_pps']:,} frames/s"
    yield "the same in bits", f"{row['zero_loss_gbps']:g} Gb/s"
    yield "limited by", row["limited_by"]
    yield f"most {row['generator']} can send", f"{row['generator_ceiling_pps']:,} frames/s"
    yield "frames in the capture", f"{row['frames']:,} of {row['bytes_per_frame']:g} bytes on average"
    evidence = row["evidence"]
    yield "packets kept at a low rate", f"{evidence['found']:,} of {evidence['expected']:,}"
    if row["latency_ms"]:
        yield (
            "delay until evidence can be read",
            f"{row['latency_ms']['p50']:g} ms (median), {row['latency_ms']['p99']:g} ms (99th percentile)",
        )


def _loss_plot(trials: list[dict[str, Any]], zero_loss_pps: float) -> str:
    """Plot the share of frames each trial lost; a hollow circle lost none but fell behind."""
    most_pps = max([trial["offered_pps"] for trial in trials] + [1]) * 1.05
    lost = [sum(trial["losses"].values()) / max(trial["sent"], 1) for trial in trials]
    most_share = max(lost + [0.01])
    width, height = _WIDTH - _LEFT - 20, _HEIGHT - _BOTTOM - _TOP

    def at(pps: float, share: float) -> _Point:
        return _LEFT + pps / most_pps * width, _TOP + height - share / most_share * height

    marks = []
    for trial, share in zip(trials, lost, strict=True):
        x, y = at(trial["offered_pps"], share)
        late = not share and not trial["is_without_loss"]
        colour = "#e45756" if share or late else "#54a24b"
        fill = "none" if late else colour
        title = f"{trial['offered_pps']:,} frames/s: {share:.2%} lost, {trial['lag_s']:g} s behind"
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{colour}">'
            f"<title>{title}</title></circle>"
        )
    x, y = at(zero_loss_pps, 0)
    axes = (
        f'<path d="M{_LEFT} {_TOP}V{_TOP + height}H{_LEFT + width}" fill="none" stroke="#888"/>'
        f'<path d="M{x:.1f} {_TOP}V{y:.1f}" stroke="#54a24b" stroke-dasharray="4"/>'
        f'<text x="{_LEFT - 8}" y="{_TOP + 5}" text-anchor="end">{most_share:.1%}</text>'
        f'<text x="{_LEFT - 8}" y="{_TOP + height}" text-anchor="end">0</text>'
        f'<text x="{_LEFT + width}" y="{_HEIGHT - 12}" text-anchor="end">{most_pps:,.0f} frames/s</text>'
        f'<text x="{x:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{zero_loss_pps:,}</text>'
    )
    return _svg(_HEIGHT, axes + "".join(marks))


def _cpu_plot(cpu_us: dict[str, float]) -> str:
    """Plot the stages side by side; "other" is the sender and all other programs."""
    stages = {stage: cost for stage, cost in cpu_us.items() if stage != "whole_machine"}
    stages["other"] = max(0.0, cpu_us["whole_machine"] - sum(stages.values()))
    scale, x, drawn = (_WIDTH - 20) / max(sum(stages.values()), 1e-9), 10.0, []
    for number, (stage, cost) in enumerate(stages.items()):
        drawn.append(
            f'<rect x="{x:.1f}" y="10" width="{cost * scale:.1f}" height="36" fill="{_COLOURS[stage]}"/>'
            f'<rect x="{10 + number * 126}" y="60" width="12" height="12" fill="{_COLOURS[stage]}"/>'
            f'<text x="{27 + number * 126}" y="71">{stage} {cost:.2f} us</text>'
        )
        x += cost * scale
    return _svg(90, "".join(drawn))


def _svg(height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" font-size="13" xmlns="http://www.w3.org/2000/svg">{content}</svg>'
