"""Output of ``sensor bench overload``: its JSON object as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sensor.text import count_of


def overload_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield a table with a row for each flood, and what was given up."""
    where, alone = found["machine"], found["alone"]
    yield f"{where['cpu']}, {where['cpus']} CPUs, Linux {where['kernel']}, Python {where['python']}"
    busy = where["busy_with_others_percent"]
    yield f"other programs keep the machine {busy} % busy; above a few percent, figures are rough"
    for warning in found["warnings"]:
        yield f"warning: {warning}; figures are rough"
    yield (
        f"the office sends {found['office_per_second']:,} frames/s; alone, {alone['attacks_found']:,} "
        f"of {found['attacks']:,} attacks are found"
    )
    for kind in found["kinds"]:
        yield (
            f"flood, {kind['kind']}: {kind['frames_per_second']:,} frames/s, each with "
            f"{count_of(kind['rules_matched'], 'match')} and {kind['match_us']:g} us of CPU time"
        )
    yield ""
    titles = ("frames/s", "Mb/s", "found", "", "sampled", "cut", "lost")
    yield f"{'flood':<32}" + "".join(f"{title:>10}" for title in titles) + "  costliest source"
    for row in found["rows"]:
        verdict = "met" if row["is_met"] else "NOT MET"
        cells = (
            f"{row['flood_per_second']:,}",
            f"{row['flood_mbps']:g}",
            f"{row['share_of_alone']:.1%}",
            verdict,
            f"{row['given_up']['sampled']:,}",
            f"{row['given_up']['cut']:,}",
            f"{sum(row['lost'].values()):,}",
        )
        name = f"{row['kind']}, {row['origin']}"
        yield f"{name:<32}" + "".join(f"{cell:>10}" for cell in cells) + f"  {_culprit(row['costliest'])}"
        rest = {
            name: count for name, count in row["given_up"].items() if name not in ("sampled", "cut") and count
        }
        rest |= {"workers replaced": row["restarts"]} if row["restarts"] else {}
        if rest:
            yield "    " + ", ".join(f"{name.replace('_', ' ')}: {count:,}" for name, count in rest.items())
    yield ""
    yield f"found: share of the attacks that are found without a flood; asked for are {found['asked']:.0%}"


def _culprit(costliest: dict[str, dict[str, float]]) -> str:
    """Return the costliest source that has a name, as ``sensor status`` shows it."""
    named = {address: one for address, one in costliest.items() if address != "other"}
    if not named:
        return "many sources" if costliest else "none"
    address, one = max(named.items(), key=lambda item: item[1]["cpu_ratio"])
    return f"{address} {one['cpu_ratio']:.0%} of a CPU, {one['matched_ratio']:.0%} matched"
