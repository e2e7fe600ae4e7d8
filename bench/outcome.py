"""What came of a capture: is all that was expected found, and does it add up? Runs in the demo."""

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
    """Name what the traffic holds and no match points at: same class, ends, and overlapping bytes."""
    for one in expected:
        place = (one.rule_class, one.protocol, one.sip, one.sport, one.dip, one.dport)
        if not any(
            place == tuple(hit[key] for key in ("class", "protocol", "sip", "sport", "dip", "dport"))
            and hit["start"] < one.end
            and hit["end"] > one.start
            for hit in found
        ):
            yield f"not found: {one.name}, {one.sip}:{one.sport} > {one.dip}:{one.dport}"


def wrong_sums(counters: Counters, sent: int, files: list[Path]) -> Iterator[str]:
    """Name every sum that is off, the frames sent and the records in the files included."""
    for left, right, total, parts in counters.equations():
        if total != parts:
            yield f"{left} is {total}, {right} is {parts}"
    if counters.seen != sent:
        yield f"{sent} frames were sent, {counters.seen} seen"
    records = 0
    for path in files:
        with path.open("rb") as file:
            records += sum(1 for _ in RecordReader(file))
    if records != counters.written:
        yield f"{counters.written} frames were written, the files hold {records}"


def digest(found: list[Found]) -> Iterator[tuple[Found, int]]:
    """Give every threat, and of each other rule its first match with the number of further ones."""
    left = Counter(hit["rule"] for hit in found)
    for hit in sorted(found, key=lambda hit: (CLASSES.index(hit["class"]), hit["time_us"])):
        if hit["class"] == "threat":
            yield hit, 0
        elif hit["rule"] in left:
            yield hit, left.pop(hit["rule"]) - 1


def evidence_table(found: list[Found]) -> Table:
    """Show a `digest` of the matches."""
    table = Table(title="Evidence", title_justify="left")
    for name in ("time", "class", "rule", "from", "to", "text"):
        table.add_column(name, overflow="fold")
    for hit, more in digest(found):
        moment = datetime.fromtimestamp(hit["time_us"] / 1e6, UTC)
        label = [str(hit["rule"]), hit["name"], hit["version"], f"(+{more})" if more else None]
        text = hit["text"] if len(hit["text"]) <= TEXT_WIDTH else hit["text"][: TEXT_WIDTH - 1] + "…"
        table.add_row(
            f"{moment:%H:%M:%S.%f}",
            hit["class"],
            " ".join(filter(None, label)),
            f"{hit['sip']} {hit['sport']}",
            f"{hit['dip']} {hit['dport']}",
            text,
            style="red" if hit["class"] == "threat" else "",
        )
    return table


def counters_table(counters: Counters) -> Table:
    """Show the law of the counters with this run's figures."""
    table = Table("counter", "frames", "is", "sum", "", title="Counters", title_justify="left")
    for left, right, total, parts in counters.equations():
        style = "green" if total == parts else "red"
        table.add_row(left, str(total), right, str(parts), "✓" if total == parts else "✗", style=style)
    reasons = ", ".join(f"{reason} {frames}" for reason, frames in counters.ignored.items())
    table.add_row("ignored", str(sum(counters.ignored.values())), reasons)
    return table
