"""The cost of storing a day of evidence, and of finding a packet in it. Runs in ``sensor bench store``.

The baseline, in the same run and on the same files, works without an index: it reads the pcap file of
the five minutes from its start up to the packet of that microsecond.
"""

from __future__ import annotations

import mmap
import random
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from sensor.bench import synthetic_evidence
from sensor.bench.api_lookup import is_available, lookups_ms
from sensor.bench.machine import machine
from sensor.errors import SensorError
from sensor.evidence.file_name import WINDOW_S, file_stem
from sensor.evidence.index_schema import DAY_US
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.pcap import FILE_HEADER_BYTES, RECORD_HEADER_BYTES
from sensor.evidence.search import EvidenceSearch, Query
from sensor.model import LinkType

DEVID = 3
BATCH = 256
TICK_ITEMS = 10_000
"""Evidence items between two ticks, as if 50,000 came per second."""
LOOKUPS = 2000
ATTACKED_LOOKUPS = 200
SCANS = 50
PAGES = 5
PAGE = 50

_RECORD = struct.Struct("<IIII")


def measure(directory: Path, items: int, progress: Callable[[int], None]) -> dict[str, Any]:
    """Write ``items`` evidence items below a directory, look some up, and return the figures.

    ``progress`` is called with the number of items written since its last call.
    """
    where = machine()
    written = _write(directory, items, progress)
    index = EvidenceSearch(directory)
    numbers = random.Random(2).choices(range(items), k=LOOKUPS)  # noqa: S311 - no secret
    times_us = [synthetic_evidence.time_ns(number, items) // 1000 for number in numbers]
    found_ms = [_timed_ms(partial(_look_up, index, at)) for at in times_us]
    scanned_us = times_us[:SCANS]
    scans_ms = [_timed_ms(partial(_scan, directory, at)) for at in scanned_us]
    return {
        "machine": where,
        "pieces": items,
        **written,
        "lookup_ms": _spread(found_ms),
        **(_http_lookups(directory, times_us) if is_available() else {}),
        "scan_ms": _spread(scans_ms),
        "scan_to_lookup": round(median(scans_ms) / median(found_ms[: len(scans_ms)]), 1),
        "first_page_ms": {
            name: round(median(_timed_ms(partial(_page, index, query)) for _ in range(PAGES)), 2)
            for name, query in _queries()
        },
        "histogram_ms": round(_timed_ms(partial(_histogram, index)), 1),
    }


def _http_lookups(directory: Path, times_us: list[int]) -> dict[str, Any]:
    """Measure lookups over HTTP, alone and beside hostile clients."""
    attacked_us = times_us[:ATTACKED_LOOKUPS]
    return {
        "http_lookup_ms": _spread(list(lookups_ms(directory, times_us))),
        "http_lookup_attacked_ms": _spread(list(lookups_ms(directory, attacked_us, is_attacked=True))),
    }


def _write(directory: Path, items: int, progress: Callable[[int], None]) -> dict[str, Any]:
    """Write all items; only the CPU time of the writer counts, not that of generating them."""
    spent_s = wall_s = 0.0
    memory_mib: list[float] = []
    with closing(IndexedWriter(directory, DEVID)) as writer:
        since_tick = 0
        for block in synthetic_evidence.blocks(items, BATCH):
            since_tick += len(block)
            cpu_s, clock_s = time.process_time(), time.perf_counter()
            writer.write(block)
            if since_tick >= TICK_ITEMS:
                writer.tick(int(block.items["time_ns"][-1]))
                since_tick = 0
            spent_s += time.process_time() - cpu_s
            wall_s += time.perf_counter() - clock_s
            progress(len(block))
            if writer.written * 10 // items > len(memory_mib):
                memory_mib.append(_memory_mib())
    index = sum(path.stat().st_size for path in (directory / str(DEVID)).glob("*.sqlite*"))
    return {
        "pieces_per_second": round(items / spent_s),
        "pieces_per_second_wall": round(items / wall_s),
        "memory_mib": {"first_tenth": memory_mib[0], "end": memory_mib[-1], "peak": max(memory_mib)},
        "index_bytes_per_piece": round(index / items, 1),
    }


def _queries() -> Iterator[tuple[str, Query]]:
    """Yield typical searches: for something frequent, for something rare, and for both together."""
    noon_us = (synthetic_evidence.DAY_S + 43_200) * 1_000_000
    yield "everything", Query()
    yield "frequent class", Query(rule_class="device")
    yield "frequent rule", Query(rule_id=1)
    yield "rare rule", Query(rule_id=synthetic_evidence.RARE_RULE)
    yield "frequent port", Query(port=443)
    yield "rare port", Query(port=51_234)
    yield "rare port before noon", Query(port=51_234, until_us=noon_us)
    yield "frequent network", Query(network=ip_network("10.0.0.0/8"))
    yield "rare network", Query(network=ip_network("10.1.2.0/24"))
    yield "no such address", Query(network=ip_network("203.0.113.1"))
    yield (
        "rare network, frequent class and port",
        Query(network=ip_network("10.1.0.0/16"), rule_class="device", port=80),
    )


def _page(index: EvidenceSearch, query: Query) -> None:
    """Find a page, and where in its packets the rules matched."""
    index.matches(index.search(query, PAGE).items)


def _look_up(index: EvidenceSearch, time_us: int) -> bytes:
    """Find a packet with the index, and read it."""
    [stored] = index.lookup(time_us)
    return index.record(stored).frame


def _scan(directory: Path, time_us: int) -> bytes:
    """Find a packet by reading the files of its five minutes; threats have one of their own."""
    seconds, microseconds = divmod(time_us, 1_000_000)
    stem = file_stem(seconds - seconds % WINDOW_S, LinkType.ETHERNET, local_time=False)
    for path in sorted((directory / str(DEVID)).glob(f"{stem}*.pcap")):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            offset, unpack = FILE_HEADER_BYTES, _RECORD.unpack_from
            while offset < len(data):
                record_s, record_us, caplen, _ = unpack(data, offset)
                offset += RECORD_HEADER_BYTES
                if record_s == seconds and record_us == microseconds:
                    return data[offset : offset + caplen]
                offset += caplen
    raise SensorError(f"no file has the packet of {time_us}")


def _histogram(index: EvidenceSearch) -> None:
    start_us = synthetic_evidence.DAY_S * 1_000_000
    index.histogram(Query(), start_us, start_us + DAY_US, 120)


def _timed_ms(action: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    action()
    return (time.perf_counter() - start_s) * 1e3


def _spread(times_ms: list[float]) -> dict[str, float]:
    return {"p50": round(median(times_ms), 3), "p99": round(quantiles(times_ms, n=100)[98], 3)}


def _memory_mib() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)
