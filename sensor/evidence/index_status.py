"""How much evidence each device has, and how much of it is indexed. Runs in the API process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sensor.evidence.day_reader import Summary, never_ends, query_day
from sensor.evidence.evidence_file import evidence_sizes
from sensor.evidence.index_schema import databases
from sensor.evidence.pcap import FILE_HEADER_BYTES


def index_status(
    directory: Path, devices: Sequence[int], check: Callable[[], None] = never_ends
) -> dict[str, Any]:
    """Return what is stored for these devices, and the progress of the index.

    Returns ``{"devices": [{"devid", "pieces", "bytes", "oldest_us", "newest_us", "files"}],
    "index": {"state": "ok" | "rebuilding", "done", "total"}}``. The last two are bytes of evidence files.
    ``check`` is called often, and raises to end this.

    Raises:
        EvidenceError: the directory of a device cannot be read.
    """
    found = [_device(directory / str(devid), devid, check) for devid in devices]
    missing = sum(device.pop("missing") for device in found)
    total = sum(device["bytes"] for device in found)
    state = "rebuilding" if missing else "ok"
    return {"devices": found, "index": {"state": state, "done": total - missing, "total": total}}


def _device(directory: Path, devid: int, check: Callable[[], None]) -> dict[str, Any]:
    sizes = evidence_sizes(directory)
    summaries: list[Summary] = []
    for day, path in databases(directory):
        summaries += query_day(path, day, devid, lambda reader: [reader.summary()], check=check)
    known = {name: ends for summary in summaries for name, ends in summary.files.items()}
    missing = 0
    for name, (size, is_open) in sizes.items():
        end, gaps = known.get(name, (FILE_HEADER_BYTES, 0))
        missing += gaps if is_open else gaps + max(0, size - end)
    times_us = [time for summary in summaries for time in (summary.oldest_us, summary.newest_us) if time]
    return {
        "devid": devid,
        "pieces": sum(summary.items for summary in summaries),
        "bytes": sum(size for size, _ in sizes.values()),
        "oldest_us": min(times_us, default=None),
        "newest_us": max(times_us, default=None),
        "files": len(sizes),
        "missing": missing,
    }
