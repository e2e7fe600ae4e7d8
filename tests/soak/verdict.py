"""Checks after a soak: the counters add up, and the evidence can be read and agrees with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from sensor.counters import Counters
from tests.soak.site import Site, faults_of_log

_SHOWN = 2000
"""Characters of what a command says that are shown."""


def faults_of(site: Site, code: int) -> Iterator[str]:
    """Yield a line for each thing that is wrong after the sensor has ended with an exit code."""
    counters = Counters(**site.counters())
    expected = 6 if counters.write_failed else 0
    if code != expected:
        yield f"the sensor ended with code {code}, not {expected}"
    for left, right, one, other in counters.equations():
        if one != other:
            yield f"{left} = {one:,}, but {right} = {other:,}"
    if not counters.matched:
        yield "nothing was matched"
    yield from faults_of_log(site.log.read_text().splitlines())
    records = 0
    for directory in site.disk.file_systems():
        for path in sorted(directory.glob("cap/*/*.pcap*")):
            count = _records(path)
            if count is None:
                yield f"{path} cannot be read"
            records += count or 0
        if any(directory.glob("cap/*/*.pcap")):
            yield from _fault_of("reindex", directory / "cap")  # the indexer may have been killed last
            yield from _fault_of("verify", directory / "cap")
    written = counters.written + counters.context_written
    if records != written:
        yield f"{written:,} frames were written, but there are {records:,} records"


def _records(path: Path) -> int | None:
    """Return how many packets capinfos finds in a file, or None if the file is damaged."""
    done = subprocess.run(["capinfos", "-c", "-M", str(path)], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("Number of packets")]
    return int(lines[0].split()[-1]) if not done.returncode and lines else None


def _fault_of(action: str, evidence: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "sensor", "evidence", action, "--evidence", str(evidence)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stdout[-_SHOWN:] + done.stderr[-_SHOWN:]
        yield f"evidence {action} ends with code {done.returncode}: {said}"
