"""Floods a disk with harmless evidence after some threats: ``python evidence_flood.py <small disk>``.

The program does what the supervisor does, with the processes that index and delete evidence beside it, and
prints the result as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

from evidence_samples import DEVID, NOON_S, NS, item, records_of

from sensor.config.settings import Settings
from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.budgets import Budgets
from sensor.evidence.device_directory import DeviceDirectory
from sensor.evidence.file_name import WINDOW_S
from sensor.evidence.writer import EvidenceWriter
from sensor.live import indexer_process, retention_process
from sensor.live.indexer_process import IndexerProcess
from sensor.live.retention_process import RetentionProcess
from sensor.model import FiveTuple, Match, Rule

THREAT = Rule(1, "threat", "T", "Threat", "x")
ORDINARY = [Rule(number, "service", "T", "Service", "x") for number in range(2, 42)]
THREATS, ORDINARIES, AT_ONCE = 2000, 40_000, 50
indexer_process.MOST_SILENT_TICKS = retention_process.MOST_SILENT_TICKS = 1_000_000  # they follow quickly
disk = Path(sys.argv[1])
settings = Settings(evidence=disk, devid=DEVID)


def block(rule: Rule, first: int, time_s: int, caplen: int) -> EvidenceBlock:
    """Return items that match a rule, each from another source."""
    return block_of_objects(
        [
            item(number, time_s * NS + number, caplen=caplen)._replace(
                matches=(Match(rule, 0, 1),),
                five_tuple=FiveTuple(17, (number + 1).to_bytes(4, "big"), 12345, b"\x0a\x00\x00\x01", 9),
            )
            for number in range(first, first + AT_ONCE)
        ]
    )


with ExitStack() as stack:
    device = stack.enter_context(closing(DeviceDirectory(disk, DEVID)))
    indexer = stack.enter_context(closing(IndexerProcess(settings, device.path, {1: "eth1"})))
    writer = stack.enter_context(closing(EvidenceWriter(device.path, indexer)))
    retention = stack.enter_context(
        closing(RetentionProcess(settings, device.path, indexer.forget, indexer.compare))
    )
    budgets = Budgets(50.0, 50.0, writer.open_bytes)

    def write(one: EvidenceBlock, time_s: int) -> None:
        """Write a block, and do what the supervisor's loop does."""
        writer.write(budgets.admit(one))
        writer.tick(time_s * NS)
        indexer.tick()
        retention.tick()
        budgets.update(retention.space, time.monotonic())

    while retention.space == type(retention.space)():
        write(block_of_objects([]), NOON_S)
        time.sleep(0.01)
    for first in range(0, THREATS, AT_ONCE):
        write(block(THREAT, first, NOON_S, 500), NOON_S)
    for first in range(0, ORDINARIES, AT_ONCE):
        # Two thirds are more than the disk holds while their file is open; the rest is in later windows.
        time_s = NOON_S + max(0, 6 * first // ORDINARIES - 3) * WINDOW_S
        write(block(ORDINARY[first // AT_ONCE % 40], first, time_s, 1400), time_s)
        if not first % 1000:
            write(block(THREAT, THREATS + first, time_s, 500), time_s)
        time.sleep(0.01)  # 56 Mb/s
files = {path.name: len(records_of(path)) for path in sorted(device.path.glob("*.pcap"))}
json.dump(
    {
        "files": files,
        "threats": THREATS + ORDINARIES // 1000 * AT_ONCE,
        "write_failed": writer.write_failed,
        "suppressed": dict(budgets.suppressed),
        "deleted": retention.deleted,
    },
    sys.stdout,
)
