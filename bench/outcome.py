"""Checks and tables of a capture: expected matches, counters, evidence. Runs in the demo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from sensor.bench.traffic.conversations import Expected
from sensor.counters import Counters
from sensor.evidence.pcap import RecordReader

Found = dict[str, Any]
"""A match as ``sensor run --json`` prints it."""

CLASSES = ("threat", "device", "os", "midware", "service")
TEXT_WIDTH = 40


def missing(expected: list[Expected], found: list[Found]) -> Iterator[str]:
    """Yield each expected match that was not found with the same class, hosts and overlapping bytes."""
    for text in expected:
        place = (text.rule_class, text.protocol, text.sip, text.sport, text.dip, text.dport)
        if not any(
            place == tuple(match[key] for key in ("class", "protocol", "sip", "sport", "dip", "dport"))
            and match["start"] < text.end
            and match["end"] > text.start
            for match in found
        ):
            yield f"not found: {text.name}, {text.sip}:{text.sport} > {text.dip}:{text.dport}"


def wrong_sums(counters: Counters, sent: int, files: list[Path]) -> Iterator[str]:
    """Yield each sum of counters that is wrong, also for the frames sent and the records in the files."""
    for left, right, total, parts in counters.equations():
        if total != parts:
            yield f"{left} is {total}, {right} is {parts}"
    if counters.seen != sent:
        yield f"{sent} frames were sent, but {counters.seen} were seen"
    records = 0
    for path in files:
        with path.open("rb") as file:
            records += sum(1 for _ in RecordReader(file))
    written = counters.written + counters.context_written
    if records != written:
        yield f"{written} frames were written, but the files hold {records}"


def summarize(found: list[Found]) -> Iterator[tuple[Found, int]]:
    """Yield every threat, and the first match of each other rule with the number of its further matches."""
    left = Counter(match["rule"] for match in found)
    for match in sorted(found, key=lambda match: (CLASSES.index(match["class"]), match["time_us"])):
        if match["class"] == "threat":
            yield match, 0
        elif match["rule"] in left:
            yield match, left.pop(match["rule"]) - 1


def matches_table(found: list[Found]) -> Table:
    """Build a table of the matches, summarized."""
    table = Table(
        title="Matches",
        caption="(+50): 50 more matches of the rule",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("time", "class", "rule", "from", "to", "text"):
        table.add_column(name, overflow="fold")
    for match, more in summarize(found):
        moment = datetime.fromtimestamp(match["time_us"] / 1e6, UTC)
        label = [str(match["rule"]), match["name"], match["version"], f"(+{more})" if more else None]
        text = match["text"] if len(match["text"]) <= TEXT_WIDTH else match["text"][: TEXT_WIDTH - 1] + "…"
        table.add_row(
            f"{moment:%H:%M:%S.%f}",
            match["class"],
            " ".join(filter(None, label)),
            f"{match['sip']} {match['sport']}",
            f"{match['dip']} {match['dport']}",
            text,
            style="red" if match["class"] == "threat" else "",
        )
    return table


def counters_table(counters: Counters) -> Table:
    """Build a table of the law of the counters with the figures of this run."""
    table = Table("counter", "frames", "is the sum of", "sum", "", title="Counters", title_justify="left")
    for left, right, total, parts in counters.equations():
        style = "green" if total == parts else "red"
        table.add_row(left, str(total), right, str(parts), "✓" if total == parts else "✗", style=style)
    reasons = ", ".join(f"{reason} {frames}" for reason, frames in counters.ignored.items())
    table.add_row("ignored", str(sum(counters.ignored.values())), reasons)
    return table
