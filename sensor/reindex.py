"""Fills gaps of the index: reads packets from the evidence files and matches them again.

`reindex` does this for ``sensor evidence reindex``, in one go. Beside a running capture a child process runs
`Rematcher`, with rights of its own, because packets may be hostile: see `sensor.live.reindexer`.

Some things cannot be recovered from the files: the names of interfaces, matches of rules that have changed
since, and which matches a profile left out because of earlier packets of the flow. The rows of such packets
have all matches. What was known of conversations beside their packets is lost, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.config.directories import directory_fault
from sensor.config.settings import Settings
from sensor.decode import decode
from sensor.errors import EvidenceError
from sensor.evidence.block import EvidenceBlock, block_of_objects, block_of_packets
from sensor.evidence.conversation_links import link, link_rules
from sensor.evidence.day_writer import Gap
from sensor.evidence.device_directory import DeviceDirectory
from sensor.evidence.evidence_file import open_evidence
from sensor.evidence.index_schema import NO_INTERFACE, Day
from sensor.evidence.index_writer import IndexWriter
from sensor.evidence.pcap import Record, RecordReader
from sensor.evidence.reconcile import FILL_BYTES, FILL_ITEMS, fill, reconcile
from sensor.model import FrameBatch, PacketBatch, PacketStatus
from sensor.rules.engine.flows import FlowTable
from sensor.rules.engine.matcher import Matches, Payloads
from sensor.rules.engine.profile import PROFILES
from sensor.rules.ready import make_ready

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """The first records of a gap, matched again."""

    day: Day
    gap: Gap
    offsets: NDArray[np.int64]
    """The offset of each record, shape (n,)."""
    block: EvidenceBlock
    """The evidence in the n records; the block itself has no records."""
    rest: int
    """Offset at which the rest of the gap starts."""


class Rematcher:
    """Matches stored packets, with the parts of a profile that do not depend on flows."""

    def __init__(self, settings: Settings) -> None:
        """Load the rules, compiled.

        Raises:
            RulesError: a rule is wrong.
        """
        self._profile = PROFILES[settings.profile]
        ready = make_ready(settings.rules, self._profile.http, lenient=settings.lenient, yields=True)
        self.rules = rules = ready.rules
        """The rules that matches refer to."""
        self._digest = rules.digest
        self._matcher = ready.matcher
        self._flows = FlowTable(inf, inf)
        self._packets = 0

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
                        offsets = np.array([record.offset for record in records], np.int64)
                        block = self._block(_frame_batch(records, reader.linktype or 0))
                        yield Part(day, gap, offsets, block, rest)
                        gap = gap._replace(start=rest)
            except (EvidenceError, OSError) as error:
                log.warning("%s from byte %d on cannot be indexed: %s", gap.name, gap.start, error)
            if gap.start < gap.end:
                nothing = block_of_objects([], self._matcher.rules)
                yield Part(day, gap, np.empty(0, np.int64), nothing, gap.end)

    def _block(self, batch: FrameBatch) -> EvidenceBlock:
        """Match all frames of a batch; return a block with all of them, matched or not."""
        packets = decode(batch)
        matches = self._matches(batch, packets)
        block = block_of_packets(
            batch,
            packets,
            np.arange(len(batch)),
            np.zeros(len(batch), np.uint64),
            np.bincount(matches.payload, minlength=len(batch)),
            matches.rule,
            self._matcher.rules,
            self._profile.http,
            self._digest,
            incomplete=matches.incomplete,
        )
        return block.without_records()

    def _matches(self, batch: FrameBatch, packets: PacketBatch) -> Matches:
        """Return the matches; ``payload`` and ``incomplete`` refer to the frames of the batch."""
        length = packets.payload_end - packets.payload_start
        longest = self._profile.longest
        is_matched = np.isin(packets.status, _MATCHED) & (length > 0)
        chosen = np.flatnonzero(is_matched if longest is None else is_matched & (length <= longest))
        frames = np.frombuffer(batch.buffer, np.uint8)
        start, end = packets.payload_start[chosen], packets.payload_end[chosen]
        ports = packets.protocol[chosen], packets.sport[chosen], packets.dport[chosen]
        is_http = self._profile.http.matches_each(frames, start, end)
        found = self._matcher.matches(batch.buffer, Payloads(start, end, *ports, is_http))
        if self._profile.once:
            found = self._once(frames, packets, chosen, found)
        incomplete = np.zeros(len(batch), np.bool_)
        incomplete[chosen] = found.incomplete
        return found._replace(payload=chosen[found.payload], incomplete=incomplete)

    def _once(
        self, frames: NDArray[np.uint8], packets: PacketBatch, chosen: NDArray[np.intp], found: Matches
    ) -> Matches:
        """Return the matches that count if each packet is the first of its flow."""
        serials = self._packets + 1 + np.arange(len(chosen), dtype=np.uint64)
        self._packets += len(chosen)
        counts = np.bincount(found.payload, minlength=len(chosen))
        _, counting = self._flows.label(
            serials,
            frames,
            packets,
            chosen,
            np.append(0, np.cumsum(counts)),
            [self._matcher.rules[number] for number in found.rule.tolist()],
            by_flow=False,
            once=True,
            only_threats=False,
        )
        return found._replace(payload=found.payload[counting], rule=found.rule[counting])


_MATCHED = (PacketStatus.PAYLOAD, PacketStatus.FRAGMENT)


def _batches(reader: RecordReader, end: int) -> Iterator[tuple[list[Record], int]]:
    """Yield the records that end before an offset in batches, each with the offset of the next record."""
    records: list[Record] = []
    size = 0
    for record in reader:
        if record.end > end:
            break
        records.append(record)
        size += record.caplen
        if len(records) >= FILL_ITEMS or size >= FILL_BYTES:
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
    fault = directory_fault(directory)
    if fault:
        raise EvidenceError(f"{directory}: {fault}; check --evidence and --devid")
    rematcher = Rematcher(settings)
    with (
        closing(DeviceDirectory(settings.evidence, settings.devid)),
        closing(IndexWriter(directory)) as index,
    ):
        _lock(index)
        index.delete()
        gaps = reconcile(index)
        total = sum(gap.end - gap.start for _, gap in gaps)
        done = items = 0
        for part in rematcher.parts(directory, gaps):
            if not fill(index, *part):
                raise EvidenceError(f"the index in {directory} cannot be written; see the log for the reason")
            done += part.rest - part.gap.start
            items += len(part.block)
            progress(done, total)
        for _ in link(index, link_rules(settings.context, settings.context_seconds)):
            pass
    return items


def _lock(index: IndexWriter) -> None:
    try:
        index.lock()
    except OSError as error:
        raise EvidenceError(f"the index in {index.directory} cannot be written: {error.strerror}") from error
