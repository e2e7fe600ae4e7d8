"""Fills gaps of the index: reads packets from the evidence files and matches them again.

`reindex` does this for ``sensor evidence reindex``, in one go. Beside a running capture it takes too long for
the supervisor, so `sensor.live.reindexer` runs `Rematcher` in a child process.

Some things cannot be recovered from the files: the names of interfaces, matches of rules that have changed
since, and which matches a profile left out because of earlier packets of the flow. The rows of such packets
have all matches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sensor.config.settings import Settings
from sensor.decode import decode
from sensor.errors import EvidenceError
from sensor.evidence.day_writer import Gap, Located
from sensor.evidence.evidence_file import open_evidence
from sensor.evidence.index_schema import NO_INTERFACE, Day
from sensor.evidence.pcap import Record, RecordReader
from sensor.evidence.reconcile import fill
from sensor.evidence.writer import EvidenceWriter
from sensor.model import FiveTuple, FrameBatch, Match, PacketBatch, PacketStatus
from sensor.pipeline import evidence_items
from sensor.rules.engine.flows import Flow
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.profile import PROFILES
from sensor.rules.files.load import load_and_log

BATCH_ITEMS = 512
BATCH_BYTES = 4 << 20

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """The first records of a gap, matched again."""

    day: Day
    gap: Gap
    located: Located
    rest: int
    """Offset at which the rest of the gap starts."""


class Rematcher:
    """Matches stored packets, with the parts of a profile that do not depend on flows."""

    def __init__(self, settings: Settings) -> None:
        """Load and compile the rules.

        Raises:
            RulesError: a rule is wrong.
        """
        self._profile = PROFILES[settings.profile]
        rules = load_and_log(settings.rules, lenient=settings.lenient)
        self._matcher = Matcher(rules, self._profile.http)

    def parts(self, directory: Path, gaps: Sequence[tuple[Day, Gap]]) -> Iterator[Part]:
        """Match the records of all gaps, part by part.

        The part of a gap that cannot be read is skipped, with a warning in the log.
        """
        for day, gap in gaps:
            try:
                with open_evidence(directory / gap.name) as file:
                    reader = RecordReader(file)
                    reader.seek(gap.start)
                    for records, rest in _batches(reader, gap.end):
                        yield Part(day, gap, self._located(records, reader.linktype or 0), rest)
                        gap = gap._replace(start=rest)
            except (EvidenceError, OSError) as error:
                log.warning("%s from byte %d on cannot be indexed: %s", gap.name, gap.start, error)
            if gap.start < gap.end:
                yield Part(day, gap, [], gap.end)

    def _located(self, records: Sequence[Record], linktype: int) -> Located:
        batch = _frame_batch(records, linktype)
        packets = decode(batch)
        everything = np.arange(len(batch))
        matches = [
            (index, self._matches(batch, packets, index, five_tuple))
            for index, five_tuple in enumerate(packets.five_tuples(batch.buffer, everything))
        ]
        offsets = (record.offset for record in records)
        return list(zip(offsets, evidence_items(batch, packets, matches), strict=True))

    def _matches(
        self, batch: FrameBatch, packets: PacketBatch, index: int, five_tuple: FiveTuple
    ) -> tuple[Match, ...]:
        start, end = packets.payload_start.item(index), packets.payload_end.item(index)
        longest = self._profile.longest
        if packets.status.item(index) not in _MATCHED or (longest is not None and end - start > longest):
            return ()
        matches = self._matcher.match(
            batch.buffer[start:end], five_tuple.protocol, five_tuple.sport, five_tuple.dport
        )
        return Flow(inf, inf).label(matches, five_tuple.source) if self._profile.once else matches


_MATCHED = (PacketStatus.PAYLOAD, PacketStatus.FRAGMENT)


def _batches(reader: RecordReader, end: int) -> Iterator[tuple[list[Record], int]]:
    """Yield the records before an offset in batches, each with the offset of the next record."""
    records: list[Record] = []
    size = 0
    for record in reader:
        if record.offset >= end:
            break
        records.append(record)
        size += record.caplen
        if len(records) >= BATCH_ITEMS or size >= BATCH_BYTES:
            yield records, record.end
            records, size = [], 0
    if records:
        yield records, records[-1].end


def _frame_batch(records: Sequence[Record], linktype: int) -> FrameBatch:
    caplen = np.array([record.caplen for record in records], np.int64)
    return FrameBatch(
        memoryview(b"".join(record.frame for record in records)),
        np.cumsum(caplen) - caplen,
        caplen,
        np.array([record.wirelen for record in records], np.int64),
        np.array([record.time_us * 1000 for record in records], np.int64),
        np.full(len(records), NO_INTERFACE, np.int64),
        linktype,
    )


def reindex(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """Rebuild the index of a device from its evidence files; return the number of packets indexed.

    ``progress`` is called repeatedly, with the bytes done and the bytes in total.

    Raises:
        RulesError: a rule is wrong.
        EvidenceError: the evidence directory is missing or in use, or the index cannot be written.
    """
    directory = settings.evidence / str(settings.devid)
    if not directory.is_dir():
        raise EvidenceError(f"there is no evidence in {directory}; check --evidence and --devid")
    rematcher = Rematcher(settings)
    with closing(EvidenceWriter(settings.evidence, settings.devid)) as writer:
        writer.index.delete()
        gaps = writer.reconcile()
        total = sum(gap.end - gap.start for _, gap in gaps)
        done = items = 0
        for part in rematcher.parts(directory, gaps):
            if not fill(writer.index, *part):
                raise EvidenceError(f"the index in {directory} cannot be written; see the log for the reason")
            done += part.rest - part.gap.start
            items += len(part.located)
            progress(done, total)
    return items
