"""Writes evidence until it is killed: ``python evidence_killed_writer.py <directory> [tick]``.

The program prints the total number of written items after each batch. With a second argument it also calls
`IndexedWriter.tick` after each batch, as a running capture does five times per second.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from evidence_samples import DEVID, NOON_S, NS, item

from sensor.evidence.block import block_of_objects
from sensor.evidence.indexed_writer import IndexedWriter

BATCH = 100
CAPLEN = 20_000  # long writes, so that the kill interrupts one

writer = IndexedWriter(Path(sys.argv[1]), DEVID)
ticks = len(sys.argv) > 2
for first in count(0, BATCH):
    writer.write(block_of_objects([item(number, caplen=CAPLEN) for number in range(first, first + BATCH)]))
    if ticks:
        writer.tick(NOON_S * NS)
    sys.stdout.write(f"{first + BATCH}\n")
    sys.stdout.flush()
