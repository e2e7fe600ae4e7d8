"""Output of ``sensor bench``: the JSON object of a measurement as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from sensor.text import count_of

Found = dict[str, Any]

_MATCHED_RATE_COUNTS = {
    "sent": "sent",
    "lost_on_wire": "lost on the wire",
    "seen": "seen by the kernel",
    "ignored": "ignored",
    "lost_in_ring": "lost in the ring",
    "read": "read",
    "undecodable": "undecodable",
    "unmatched": "unmatched",
    "sampled": "sampled",
    "matched": "matched",
}
_STORE_TITLES = {
    "pieces": "evidence items written",
    "pieces_per_second": "items per second of CPU time",
    "pieces_per_second_wall": "items per second of wall-clock time",
    "index_bytes_per_piece": "index bytes per item",
    "memory_mib": "memory in MiB",
    "first_tenth": "after the first tenth",
    "end": "at the end",
    "lookup_ms": "look up a packet by its time, in ms",
    "http_lookup_ms": "the same through the API",
    "http_lookup_attacked_ms": "beside 200 hostile clients",
    "scan_ms": "the same without the index",
    "scan_to_lookup": "time without the index / with it",
    "first_page_ms": "first page of a search, in ms",
    "histogram_ms": "histogram of the day, in ms",
    "p50": "median",
    "p99": "99th percentile",
}


def kernel_lines(found: Found) -> Iterator[str]:
    """Yield a table of the kinds of frames, and the memory of the maps."""
    yield from _machine(found)
    yield f"median of {found['rounds']} rounds of {found['runs_a_round']:,} runs each, with warm caches"
    yield ""
    yield f"{'frame':<14}{'result':<22}{'ns':>6}{'xdp-filter':>12}{'ratio':>8}"
    for row in found["kinds"]:
        baseline, ratio = _or_dash(row["xdp_filter_ns"], ".0f"), _or_dash(row["ratio_to_xdp_filter"], ".2f")
        kind, result = row["kind"].replace("_", " "), _reason(row["bucket"].removeprefix("ignored_"))
        yield f"{kind:<14}{result:<22}{row['ns']:>6.0f}{baseline:>12}{ratio:>8}"
    ratio = _or_dash(found["median_ratio_to_xdp_filter"], ".2f")
    yield f"{'median':<36}{found['median_ns']:>6.0f}{ratio:>20}"
    yield f"{'candidate, until it is submitted':<36}{found['candidate_ns']:>6.0f}"
    yield f"{'empty program, part of all figures':<36}{found['empty_program_ns']:>6.0f}"
    if found["xdp_filter_absent"]:
        yield found["xdp_filter_absent"]
    yield ""
    for row in found["history"]:
        yield (
            f"history, {row['frame_bytes']:>5,} B: {row['kept_ns_more']:+.0f} ns for a frame it keeps, "
            f"{row['beyond_ns_more']:+.0f} ns for one beyond the cut-off"
        )
    yield ""
    memory = found["memory"]
    yield f"maps: {memory['bytes'] / 2**20:,.1f} MiB with {memory['flows']:,} flows"
    for name, size in memory["maps"].items():
        yield f"    {name:<14}{size / 2**20:>10,.2f} MiB"
    yield "maps by size of the flow table:"
    for flows, size in memory["bytes_by_flows"].items():
        yield f"    {int(flows):>9,} flows {size / 2**20:>8,.2f} MiB"


def decision_lines(found: Found) -> Iterator[str]:
    """Yield how many frames of a capture are candidates, and why the others are not."""
    total = max(found["frames"], 1)
    yield f"{found['frames']:,} frames of {found['capture']}"
    results = {"candidates, read by Python": found["candidates"]}
    results |= {_reason(reason): count for reason, count in found["ignored"].items()}
    for result, count in results.items():
        yield f"    {result:<28}{count:>12,}{count / total:>8.1%}"
    if found["too_long"]:
        yield f"    {found['too_long']:,} more frames are too long to be tested"


def ring_lines(found: Found) -> Iterator[str]:
    """Yield the cost of reading, and the rates without loss."""
    yield from _machine(found)
    yield f"frames of {found['frame_bytes']} bytes that match no rule; the same machine sends and reads"
    reading = found["reading"]
    yield ""
    yield f"reading {reading['records_waiting']:,} waiting records, CPU time per record in us:"
    yield f"    {'sensor':<12}{_figure(reading['cpu_us_a_record'], '.3f')}"
    yield f"    {'BCC':<12}{_figure(reading['bcc_cpu_us_a_record'], '.3f')}"
    yield f"    {'ratio':<12}{_figure(reading['ratio_to_bcc'], '.3f')}"
    yield "reading while frames are sent as fast as possible:"
    titles = ("frames/s sent", "read/s", "frames sent", "lost on wire", "lost in ring", "us/record")
    yield f"    {'':<12}" + "".join(f"{title:>14}" for title in titles)
    for row in reading["live"]:
        rates = (row[name]["median"] for name in ("offered_per_second", "delivered_per_second"))
        counts = row["sent"], row["sent"] - row["seen"], row["lost"]
        numbers = "".join(f"{number:>14,.0f}" for number in (*rates, *counts))
        yield f"    {row['reader']:<12}{numbers}{row['cpu_us_a_record']['median']:>14.3f}"
    for row in found["through_match"]:
        yield ""
        yield from _matched_rate_lines(row)


def _matched_rate_lines(row: Found) -> Iterator[str]:
    workers = count_of(row["workers"], "worker")
    rate = "highest rate without loss" if row["is_without_loss"] else "frames were lost at every rate"
    yield f"matching with {workers}, {rate}:"
    yield f"    {'frames/s sent':<34}{_figure(row['offered_per_second'], ',.0f')}"
    yield f"    {'frames/s matched with all rules':<34}{_figure(row['through_per_second'], ',.0f')}"
    yield "    frames:"
    for name, title in _MATCHED_RATE_COUNTS.items():
        yield f"        {title:<26}{row[name]:,}"
    yield "    CPU time per frame in us:"
    for process, cost in row["cpu_us_a_frame"].items():
        yield f"        {process.replace('_', ' '):<26}{_figure(cost, '.3f')}"
    unpaced = row["unpaced"]
    yield "    when sent as fast as possible:"
    yield f"        {'frames/s sent':<26}{unpaced['offered_per_second']:,}"
    yield f"        {'frames/s matched':<26}{unpaced['through_per_second']:,}"
    yield f"        {'lost on the wire':<26}{unpaced['lost_on_wire']:,}"
    yield f"        {'lost in the ring':<26}{unpaced['lost_in_ring']:,}"


def match_lines(found: Found) -> Iterator[str]:
    """Yield a table for each rule set."""
    yield from _machine(found)
    yield f"payloads of {found['payload_bytes']} bytes, CPU time per candidate in us, least of many rounds"
    for rule_set in found["sets"]:
        compile_s, database_mib = rule_set["compile_s"], rule_set["database_mib"]
        yield ""
        yield f"{rule_set['rules']:,} rules, compiled in {compile_s} s to {database_mib} MiB"
        names = [name for name in next(iter(rule_set["payloads"].values())) if not name.startswith("ratio_")]
        yield f"    {'':<13}" + "".join(f"{name.removesuffix('_us'):>9}" for name in names)
        for kind, costs in rule_set["payloads"].items():
            yield f"    {kind:<13}" + "".join(f"{costs[name]:>9g}" for name in names)
    for worst in found["worst"]:
        yield ""
        yield from _worst_lines(worst)


def _worst_lines(worst: Found) -> Iterator[str]:
    """Yield the dearest packet of a size, how it is built, and the rules to blame if it is too dear."""
    verdict = "met" if worst["is_met"] else "NOT MET"
    cost = f"{worst['cost_us']:,g} us of CPU time (median), limit {worst['limit_us']:,g} us: {verdict}"
    yield f"worst packet with {worst['payload_bytes']:,} bytes of payload: {cost}"
    incomplete = ", and its search is cut" if worst["incomplete"] else ""
    yield f"    {worst['kind']}; {count_of(worst['matches'], 'rule')} of it match{incomplete}"
    repeated = ", ".join(f'"{text}"' for text in worst["repeated"])
    yield from wrap(
        f'"{worst["beginning"]}", then repeated: {repeated}',
        110,
        initial_indent="    ",
        subsequent_indent="    ",
    )
    kinds = ", ".join(f"{kind}: {cost_us:,g}" for kind, cost_us in worst["match_us_by_kind"].items())
    yield f"    matching alone in us, {worst['trials']:,} trials each: {kinds}"
    for rule in worst["dearest_rules"]:
        yield f"    {rule['cost_us']:>9,g} us  {rule['class']} {rule['rule']} {rule['name']}, measured alone"


def store_lines(found: Found, indent: str = "") -> Iterator[str]:
    """Yield every figure with its name."""
    if not indent:
        yield from _machine(found)
    for name, value in found.items():
        title = indent + _STORE_TITLES.get(name, name)
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
    busy = where["busy_with_others_percent"]
    yield f"other programs keep the machine {busy} % busy; above a few percent, figures are rough"


def _reason(bucket: str) -> str:
    return f"ignored: {bucket.replace('_', ' ')}"


def _figure(figure: Found, form: str) -> str:
    median, least, most = (format(figure[name], form) for name in ("median", "least", "most"))
    return f"{median}  ({least} to {most})"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
