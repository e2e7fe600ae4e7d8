"""A program that writes evidence until it is killed: ``python evidence_killed_writer.py <directory>``.

Prints, after each batch that the writer took, how many pieces there are altogether. With a second argument
it ticks after each batch, as a running capture does five times a second.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from evidence_samples import DEVID, NOON_S, NS, item

from sensor.evidence.writer import EvidenceWriter

BATCH = 100
CAPLEN = 20_000  # long writes, so that the kill falls into one

writer = EvidenceWriter(Path(sys.argv[1]), DEVID)
ticks = len(sys.argv) > 2
for first in count(0, BATCH):
    writer.write([item(number, caplen=CAPLEN) for number in range(first, first + BATCH)])
    if ticks:
        writer.tick(NOON_S * NS)
    sys.stdout.write(f"{first + BATCH}\n")
    sys.stdout.flush()
