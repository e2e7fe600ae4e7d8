"""The delay from a packet's arrival until its evidence can be read. Runs in ``sensor bench replay``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import quantiles

from sensor.evidence.pcap import RecordReader

POLL_S = 0.0005
"""Seconds between two reads of the files."""


class LatencyWatcher:
    """A thread that reads evidence files as they grow."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self._ends: dict[str, int] = {}
        self._done = threading.Event()

    @contextmanager
    def watching(self, evidence: Path) -> Iterator[None]:
        """Note the delay of every record that appears under ``evidence`` during the block."""
        thread = threading.Thread(target=self._watch, args=(evidence,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def spread_ms(self) -> dict[str, float] | None:
        """Return the median and the 99th percentile; None with fewer than two records."""
        if len(self.latencies_ms) < 2:
            return None
        hundredths = quantiles(self.latencies_ms, n=100)
        return {"p50": round(hundredths[49], 2), "p99": round(hundredths[98], 2)}

    def _watch(self, evidence: Path) -> None:
        while not self._done.wait(POLL_S):
            for path in evidence.glob("*/*.pcap*"):
                with suppress(FileNotFoundError):  # it has just been renamed to its final name
                    self._read_new(path)

    def _read_new(self, path: Path) -> None:
        name = path.name.removesuffix(".temp")
        with path.open("rb") as file:
            reader = RecordReader(file)
            if name in self._ends:
                reader.seek(self._ends[name])
            now_us = time.time() * 1e6
            self.latencies_ms += [(now_us - record.time_us) / 1e3 for record in reader]
            if reader.end:
                self._ends[name] = reader.end
