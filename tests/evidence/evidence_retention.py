"""Writes more evidence than a disk holds: ``python evidence_retention.py <small disk> <percent free>``.

The program writes one window of evidence after the other, with retention, and prints the result as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from evidence_samples import DEVID, NOON_S, NS, item

from sensor.evidence import stored_files
from sensor.evidence import writer as evidence_writer
from sensor.evidence.block import block_of_objects
from sensor.evidence.clock_trust import read_clock
from sensor.evidence.file_name import WINDOW_S
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.retention import Limits, Retention
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.verify import verify

stored_files.LISTING_S = stored_files.LISTING_SHARE = 0
evidence_writer.QUIET_S = 0.0
small_disk, percent, windows, window_items = Path(sys.argv[1]), float(sys.argv[2]), 100, 500
writer = IndexedWriter(small_disk, DEVID)
retention = Retention(writer.directory, Limits(free_percent=percent), writer.index.forget)
least_free = 100.0
for number in range(windows):
    time_s = NOON_S + number * WINDOW_S
    for first in range(0, window_items, 100):
        writer.write(
            block_of_objects([item(first + one, time_s * NS + one, caplen=450) for one in range(100)])
        )
        writer.tick((time_s + first // 2) * NS)
        retention.enforce(read_clock())
        writer.index.tidy()
    disk = os.statvfs(small_disk)
    least_free = min(least_free, 100 * disk.f_bavail / disk.f_blocks)
while writer.index.untidy:
    writer.index.tidy()
files = sorted(path.name for path in writer.directory.glob("*.pcap*"))
writer.close()
index = EvidenceSearch(small_disk)
sys.stdout.write(
    json.dumps(
        {
            "written": writer.written,
            "write_failed": writer.write_failed,
            "least_free": least_free,
            "files": files,
            "indexed": sorted({stored.path.name for stored in index.iterate(Query())}),
            "rows": sum(1 for _ in index.iterate(Query())),
            "faults": [fault for _, _, fault in verify(writer.directory, DEVID) if fault],
        }
    )
)
