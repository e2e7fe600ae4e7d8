"""Gaps of the index are filled: packets are read from the evidence files, and matched anew.

Matching takes its time, so `Reindexer` leaves it to a child process, beside ``sensor run``; ``sensor
evidence reindex`` does it all in one.

What the files cannot tell: interface names; matches of rules that have changed since; and which matches a
profile left out because of what it knew of the flow. Rows of such packets have every match there is.
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
from sensor.evidence.day_writer import Gap
from sensor.evidence.evidence_file import open_evidence
from sensor.evidence.index_schema import NO_INTERFACE, Day
from sensor.evidence.pcap import RECORD_HEADER_BYTES, Record, RecordReader
from sensor.evidence.reconcile import Located, fill
from sensor.evidence.writer import EvidenceWriter
from sensor.model import Evidence, FiveTuple, FrameBatch, Match, PacketBatch, PacketStatus
from sensor.pipeline import addresses
from sensor.rules.engine.flows import Flow
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.profile import PROFILES
from sensor.rules.files.load import load_and_log

BATCH_ITEMS = 512
BATCH_BYTES = 4 << 20

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """The first records of a gap, matched."""

    day: Day
    gap: Gap
    located: Located
    rest: int
    """Where the rest of the gap starts."""


class Rematcher:
    """Rules, and what of a profile does not depend on flows."""

    def __init__(self, settings: Settings) -> None:
        """Load and compile the rules; raises `RulesError`."""
        self._profile = PROFILES[settings.profile]
        rules = load_and_log(settings.rules, lenient=settings.lenient)
        self._matcher = Matcher(rules, self._profile.http)

    def parts(self, directory: Path, gaps: Sequence[tuple[Day, Gap]]) -> Iterator[Part]:
        """Match the records of all gaps, part by part; one that cannot be read is given as filled."""
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
        return [
            (record.offset, self._item(batch, packets, index, record)) for index, record in enumerate(records)
        ]

    def _item(self, batch: FrameBatch, packets: PacketBatch, index: int, record: Record) -> Evidence:
        start, end = packets.payload_start.item(index), packets.payload_end.item(index)
        first = batch.start.item(index)
        five_tuple = _NO_IP
        matches: tuple[Match, ...] = ()
        if packets.ip_version.item(index):
            source, destination = addresses(batch.buffer, packets, index)
            protocol, sport, dport = (
                column.item(index) for column in (packets.protocol, packets.sport, packets.dport)
            )
            five_tuple = FiveTuple(protocol, source, sport, destination, dport)
            longest = self._profile.longest
            if packets.status.item(index) in _MATCHED and (longest is None or end - start <= longest):
                matches = self._matcher.match(batch.buffer[start:end], protocol, sport, dport)
                if self._profile.once:
                    matches = Flow(inf, inf).label(matches, source)
        return Evidence(
            record.frame,
            record.time_us * 1000,
            record.wirelen,
            batch.linktype,
            NO_INTERFACE,
            five_tuple,
            tuple(packets.vlan_tci[index, : packets.vlan_count.item(index)].tolist()),
            max(0, start - first),
            max(0, end - first),
            matches,
        )


_NO_IP = FiveTuple(0, bytes(4), 0, bytes(4), 0)
"""Of a frame in which no packet is found any more."""
_MATCHED = (PacketStatus.PAYLOAD, PacketStatus.FRAGMENT)


def _batches(reader: RecordReader, end: int) -> Iterator[tuple[list[Record], int]]:
    """Give the records before an offset, some at a time, and where those behind them start."""
    records: list[Record] = []
    size = 0
    for record in reader:
        if record.offset >= end:
            break
        records.append(record)
        size += record.caplen
        if len(records) >= BATCH_ITEMS or size >= BATCH_BYTES:
            yield records, reader.end
            records, size = [], 0
    if records:
        yield records, records[-1].offset + RECORD_HEADER_BYTES + records[-1].caplen


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
    """Build the index of the device anew, from nothing but the files; return the packets indexed.

    ``progress`` takes bytes done and bytes altogether, again and again.

    Raises:
        RulesError: A rule is wrong.
        EvidenceError: The evidence directory is missing or in use, or the index cannot be written.
    """
    directory = settings.evidence / str(settings.devid)
    if not directory.is_dir():
        raise EvidenceError(f"there is no evidence in {directory}; name it with --evidence and --devid")
    rematcher = Rematcher(settings)
    with closing(EvidenceWriter(settings.evidence, settings.devid)) as writer:
        writer.index.delete()
        gaps = writer.reconcile()
        total = sum(gap.end - gap.start for _, gap in gaps)
        done = items = 0
        for part in rematcher.parts(directory, gaps):
            if not fill(writer.index, *part):
                raise EvidenceError(f"the index in {directory} cannot be written; see the log")
            done += part.rest - part.gap.start
            items += len(part.located)
            progress(done, total)
    return items
