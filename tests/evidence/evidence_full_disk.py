"""Fills a disk with evidence: ``python evidence_full_disk.py <small disk> <directory>``.

At the end, the program copies the files to the directory and prints counts and log lines as JSON.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path

from evidence_samples import DEVID, NOON_S, NS, item

from sensor.evidence import writer as evidence_writer
from sensor.evidence.block import block_of_objects
from sensor.evidence.file_name import WINDOW_S
from sensor.evidence.indexed_writer import IndexedWriter

evidence_writer.QUIET_S = 0.0  # writes do not fail and succeed alternately on this disk
small_disk, directory = map(Path, sys.argv[1:])
lines: list[str] = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
logging.getLogger("sensor").addHandler(handler)

ballast = small_disk / "ballast"
ballast.write_bytes(bytes(64 << 10))
writer = IndexedWriter(small_disk, DEVID)
given = 0
kept: list[int] = []


def write(time_s: int = NOON_S) -> None:
    """Write ten items, and record which of them were written according to the counters."""
    global given
    batch = range(given, given + 10)
    before = writer.written
    writer.write(block_of_objects([item(number, time_s * NS, caplen=450) for number in batch]))
    kept.extend(batch[: writer.written - before])
    given += 10
    assert writer.written + writer.write_failed == given


while not writer.write_failed:
    write()
for time_s in (NOON_S, NOON_S, NOON_S + WINDOW_S, NOON_S + WINDOW_S):
    write(time_s)
failed_while_full = writer.write_failed
ballast.unlink()
for _ in range(10):
    write()
writer.close()
shutil.copytree(small_disk / str(DEVID), directory, dirs_exist_ok=True)
sys.stdout.write(
    json.dumps(
        {
            "kept": kept,
            "failed_while_full": failed_while_full,
            "write_failed": writer.write_failed,
            "lines": lines,
        }
    )
)
