"""Evidence in columns: the items of one batch, from the worker that matched them to the disk.

Made in capture workers, ``sensor read`` and the reindexer; written, counted and passed on without one
Python object per item. `EvidenceBlock.objects` makes objects, for people and other programs to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.file_name import FileKind
from sensor.evidence.pcap import RECORD_HEADER_BYTES, SNAPLEN
from sensor.model import RULE_CLASSES, Evidence, FiveTuple, FrameBatch, PacketBatch, Role, Rule
from sensor.native.records import copy_records, write_records
from sensor.rules.engine.http_payload import RFC9110, HttpReading

ITEM = np.dtype(
    [
        ("time_ns", "<i8"),
        ("flow", "<u8"),
        ("ktime_ns", "<u8"),
        ("conversation", "<u8"),
        ("record", "<u4"),
        ("caplen", "<u4"),
        ("wirelen", "<u4"),
        ("interface", "<i4"),
        ("first_match", "<u4"),
        ("matches", "<u4"),
        ("payload_start", "<u4"),
        ("payload_end", "<u4"),
        ("linktype", "<u2"),
        ("sport", "<u2"),
        ("dport", "<u2"),
        ("vlan_tci", "<u2", (2,)),
        ("cpu", "<u2"),
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("vlan_count", "u1"),
        ("incomplete", "u1"),
        ("role", "u1"),
        ("tcp_flags", "u1"),
        ("reserved", "u1", (6,)),
        ("source", "u1", (16,)),
        ("destination", "u1", (16,)),
    ]
)
"""One item of evidence.

``record`` is the offset of its record in the block's records; ``first_match`` and ``matches`` are its range
in the block's rules. The payload's range counts from the start of the frame. IPv4 addresses are the first
four bytes of ``source`` and ``destination``; ``ip_version`` is 0 if no packet was found in the frame.
``flow`` is the number of `sensor.rules.engine.flows.FlowHash`. ``incomplete`` is 1 if the search of the
payload was cut for its cost, so that more rules may match. ``role`` is a `sensor.model.Role`; items with the
role before or after have no matches. ``conversation`` is the number of the item's conversation, 0 if it has
none. ``ktime_ns`` and ``cpu`` are the kernel's monotonic time of the frame and the CPU that saw it, which
identify it; 0 if it comes from a file. ``tcp_flags`` is byte 13 of the TCP header, 0 without one.
"""

CLASS_NUMBER = {rule_class: number for number, rule_class in enumerate(RULE_CLASSES)}


@dataclass(frozen=True)
class EvidenceBlock:
    """Items of evidence, with their frames as records of a pcap file."""

    items: NDArray[np.void]
    """Shape (n,), of dtype `ITEM`."""
    rules: NDArray[np.uint32]
    """The rule of each match, as a position in ``rule_set``; the matches of an item follow each other."""
    records: NDArray[np.uint8]
    """The records, one after the other, ready to be written to an evidence file.

    Empty if the block was made for the index alone (`without_records`).
    """
    rule_set: Sequence[Rule]
    http: HttpReading = RFC9110
    """The definition of HTTP that the rules were matched with."""
    digest: str = ""
    """Digest of the files that the rules come from, if known."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def linktype(self) -> int:
        """Link type of the first item."""
        return int(self.items["linktype"][0])

    @cached_property
    def record_bytes(self) -> NDArray[np.uint32]:
        """Size of each record, header included."""
        size: NDArray[np.uint32] = self.items["caplen"] + np.uint32(RECORD_HEADER_BYTES)
        return size

    def record_offsets(self, start: int = 0) -> NDArray[np.int64]:
        """Return the offset of each record, and the end of the last, if the first is at ``start``."""
        return start + np.append(0, np.cumsum(self.record_bytes, dtype=np.int64))

    @cached_property
    def classes(self) -> NDArray[np.uint8]:
        """The number of each match's class, a position in `RULE_CLASSES`."""
        return _columns(self.rule_set).classes[self.rules]

    @cached_property
    def is_threat(self) -> NDArray[np.bool_]:
        """True for each item with a match of a threat rule."""
        has_threat = np.zeros(len(self.items), np.bool_)
        has_threat[self.item_of_match[self.classes == CLASS_NUMBER["threat"]]] = True
        return has_threat

    @cached_property
    def is_context(self) -> NDArray[np.bool_]:
        """True for each item that is kept because of a match of another one of its flow."""
        is_context: NDArray[np.bool_] = self.items["role"] != Role.HIT
        return is_context

    @cached_property
    def file_kinds(self) -> NDArray[np.uint8]:
        """The `FileKind` of each item's file."""
        kinds = np.where(self.is_threat, np.uint8(FileKind.THREAT), np.uint8(FileKind.OTHER))
        kinds[self.is_context] = FileKind.CONTEXT
        return kinds

    @cached_property
    def rule_ids(self) -> NDArray[np.int64]:
        """The rule id of each match."""
        return _columns(self.rule_set).rule_ids[self.rules]

    @cached_property
    def item_of_match(self) -> NDArray[np.intp]:
        """The position of each match's item."""
        return np.repeat(np.arange(len(self.items)), self.items["matches"])

    def class_counts(self) -> dict[str, int]:
        """Return the number of matches by rule class, and as ``flow`` the items without a match.

        Context is not counted.
        """
        counts = np.bincount(self.classes, minlength=len(RULE_CLASSES)).tolist()
        flows = int(((self.items["matches"] == 0) & ~self.is_context).sum())
        return {name: n for name, n in zip((*RULE_CLASSES, "flow"), (*counts, flows), strict=True) if n}

    def select(self, chosen: NDArray[np.bool_]) -> EvidenceBlock:
        """Return the items for which ``chosen`` is True; the block itself if it is for all."""
        if chosen.all():
            return self
        records = self.records
        if len(records):
            records = copy_records(records, self.items["record"][chosen], self.record_bytes[chosen])
        return self._packed(self.items[chosen], self.rules[chosen[self.item_of_match]], records)

    def part(self, first: int, end: int) -> EvidenceBlock:
        """Return the items from position ``first`` to before ``end``, without copying their records."""
        if (first, end) == (0, len(self)):
            return self
        items = self.items[first:end].copy()
        offsets = self.record_offsets()
        matches = np.append(0, np.cumsum(self.items["matches"], dtype=np.int64))
        rules = self.rules[matches[first] : matches[end]]
        return self._packed(items, rules, self.records[offsets[first] : offsets[end]])

    def has_rules_of(self, other: EvidenceBlock) -> bool:
        """Return True if both blocks were matched with the same rules."""
        return self.rule_set is other.rule_set and (self.http, self.digest) == (other.http, other.digest)

    def without_records(self) -> EvidenceBlock:
        """Return the block without its frames, which is all the index needs."""
        return replace(self, records=self.records[:0].copy())

    def _packed(
        self, items: NDArray[np.void], rules: NDArray[np.uint32], records: NDArray[np.uint8]
    ) -> EvidenceBlock:
        """Return a block of other items with the same rules; changes ``items`` in place."""
        return replace(self, items=_pack(items), rules=rules, records=records)

    def frame(self, position: int) -> memoryview:
        """Return the frame of an item."""
        item = self.items[position]
        start = int(item["record"]) + RECORD_HEADER_BYTES
        return self.records.data[start : start + int(item["caplen"])]

    def five_tuples(self) -> Iterator[FiveTuple]:
        """Yield the five-tuple of each item; the addresses are 0.0.0.0 if no packet was found."""
        items = self.items
        widths = np.where(items["ip_version"] == 6, 16, 4).tolist()
        source, destination = items["source"].tobytes(), items["destination"].tobytes()
        columns = (items[name].tolist() for name in ("protocol", "sport", "dport"))
        for number, (width, protocol, sport, dport) in enumerate(zip(widths, *columns, strict=True)):
            at = 16 * number
            yield FiveTuple(protocol, source[at : at + width], sport, destination[at : at + width], dport)

    def vlans(self) -> list[tuple[int, ...]]:
        """Return the tag control information of each item's VLAN tags, outer tag first."""
        tci, counts = self.items["vlan_tci"].tolist(), self.items["vlan_count"].tolist()
        return [tuple(tags[:count]) for tags, count in zip(tci, counts, strict=True)]

    def rules_of(self, position: int) -> list[Rule]:
        """Return the rules that match an item."""
        item = self.items[position]
        first = int(item["first_match"])
        return [self.rule_set[number] for number in self.rules[first : first + int(item["matches"])].tolist()]


class _Columns(NamedTuple):
    """Properties of each rule of a set."""

    rule_set: Sequence[Rule]
    classes: NDArray[np.uint8]
    rule_ids: NDArray[np.int64]


_last_columns = _Columns((), np.empty(0, np.uint8), np.empty(0, np.int64))


def _columns(rule_set: Sequence[Rule]) -> _Columns:
    """Return the columns of a rule set; those of the last one are kept."""
    global _last_columns
    if _last_columns.rule_set is not rule_set:
        classes = np.array([CLASS_NUMBER[rule.rule_class] for rule in rule_set], np.uint8)
        _last_columns = _Columns(rule_set, classes, np.array([rule.rule_id for rule in rule_set], np.int64))
    return _last_columns


def _pack(items: NDArray[np.void]) -> NDArray[np.void]:
    """Place the records and the matches of these items one after the other, without holes."""
    size = items["caplen"].astype(np.int64) + RECORD_HEADER_BYTES
    items["record"] = np.cumsum(size) - size
    matches = items["matches"].astype(np.int64)
    items["first_match"] = np.cumsum(matches) - matches
    return items


def block_of_packets(
    batch: FrameBatch,
    packets: PacketBatch,
    chosen: NDArray[np.intp],
    flows: NDArray[np.uint64],
    matches: NDArray[np.int64],
    rules: NDArray[np.uint32],
    rule_set: Sequence[Rule],
    http: HttpReading = RFC9110,
    digest: str = "",
    *,
    incomplete: NDArray[np.bool_] | None = None,
    roles: NDArray[np.uint8] | Role = Role.HIT,
) -> EvidenceBlock:
    """Return the evidence for packets of a batch; it owns its bytes, and is in no conversation yet.

    Args:
        batch: The frames.
        packets: The same frames, decoded.
        chosen: Positions of the packets, shape (n,).
        flows: The flow of each chosen packet.
        matches: The number of matches of each chosen packet.
        rules: The rule of each match, as a position in ``rule_set``; shape (sum of ``matches``,).
        rule_set: The rules.
        http: The definition of HTTP that the rules were matched with.
        digest: Digest of the files that the rules come from.
        incomplete: True for each chosen packet whose search was cut; None if none was.
        roles: The role of each chosen packet, or of all; one with another role than HIT has no matches.
    """
    data = np.frombuffer(batch.buffer, np.uint8)
    start = batch.start[chosen]
    items = np.zeros(len(chosen), ITEM)
    items["time_ns"] = batch.timestamp_ns[chosen]
    items["flow"] = flows
    items["caplen"] = np.minimum(batch.caplen[chosen], SNAPLEN)
    items["wirelen"] = batch.wirelen[chosen]
    items["interface"] = batch.interface[chosen]
    items["matches"] = matches
    if incomplete is not None:
        items["incomplete"] = incomplete
    items["role"] = roles
    if batch.ktime_ns is not None:
        items["ktime_ns"], items["cpu"] = batch.ktime_ns[chosen], batch.cpu
    items["payload_start"] = np.maximum(packets.payload_start[chosen] - start, 0)
    items["payload_end"] = np.maximum(packets.payload_end[chosen] - start, 0)
    items["linktype"] = batch.linktype
    for name in ("sport", "dport", "vlan_tci", "protocol", "ip_version", "vlan_count", "tcp_flags"):
        items[name] = getattr(packets, name)[chosen]
    for version, width in ((4, 4), (6, 16)):
        same = np.flatnonzero(items["ip_version"] == version)
        if len(same):
            address = packets.source_offset[chosen[same], None] + np.arange(2 * width)
            both = data[address]
            items["source"][same, :width] = both[:, :width]
            items["destination"][same, :width] = both[:, width:]
    records = write_records(data, start, items["caplen"], items["wirelen"], items["time_ns"])
    return EvidenceBlock(_pack(items), rules, records, rule_set, http, digest)


def block_of_objects(evidence: Sequence[Evidence], rule_set: Sequence[Rule] | None = None) -> EvidenceBlock:
    """Return a block of these items, in their order.

    Flows are numbered by their five-tuples and VLANs, without a seed. Without a ``rule_set``, it consists of
    the rules of the matches.
    """
    if rule_set is None:
        rule_set = list(dict.fromkeys(match.rule for one in evidence for match in one.matches))
    position = {rule: number for number, rule in enumerate(rule_set)}
    items = np.zeros(len(evidence), ITEM)
    for item, one in zip(items, evidence, strict=True):
        protocol, source, sport, destination, dport = one.five_tuple
        tags = one.vlan[:2]
        item["time_ns"], item["wirelen"], item["linktype"] = one.timestamp_ns, one.wirelen, one.linktype
        item["caplen"], item["interface"] = min(len(one.frame), SNAPLEN), one.interface
        item["payload_start"], item["payload_end"] = one.payload_start, one.payload_end
        item["protocol"], item["sport"], item["dport"] = protocol, sport, dport
        item["ip_version"] = 6 if len(source) == 16 else 4
        item["source"][: len(source)] = np.frombuffer(source, np.uint8)
        item["destination"][: len(destination)] = np.frombuffer(destination, np.uint8)
        item["vlan_count"] = len(tags)
        item["vlan_tci"][: len(tags)] = tags
        item["matches"] = len(one.matches)
        item["incomplete"] = one.incomplete
        item["role"], item["conversation"] = one.role, one.conversation
        ends = sorted(((source, sport), (destination, dport)))
        item["flow"] = hash((protocol, *ends, tuple(tci & 0xFFF for tci in tags))) & (1 << 64) - 1
    frames = [one.frame[:SNAPLEN] for one in evidence]
    caplen = items["caplen"].astype(np.int64)
    records = write_records(
        np.frombuffer(b"".join(frames) or b"\0", np.uint8),
        np.cumsum(caplen) - caplen,
        items["caplen"],
        items["wirelen"],
        items["time_ns"],
    )
    rules = np.array([position[match.rule] for one in evidence for match in one.matches], np.uint32)
    return EvidenceBlock(_pack(items), rules, records, rule_set)


def joined(blocks: Sequence[EvidenceBlock]) -> EvidenceBlock:
    """Return one block with the items of all blocks, which have the same rules."""
    if len(blocks) == 1:
        return blocks[0]
    items = _pack(np.concatenate([block.items for block in blocks]))
    rules = np.concatenate([block.rules for block in blocks])
    records = np.concatenate([block.records for block in blocks])
    return replace(blocks[0], items=items, rules=rules, records=records)


def in_order(block: EvidenceBlock, order: NDArray[np.intp]) -> EvidenceBlock:
    """Return the items of a block in another order, given as their positions."""
    items = block.items[order]
    records = copy_records(block.records, block.items["record"][order], block.record_bytes[order])
    counts = items["matches"].astype(np.int64)
    first = np.repeat(items["first_match"] - (np.cumsum(counts) - counts), counts)
    rules = block.rules[first + np.arange(len(first))]
    return replace(block, items=_pack(items), rules=rules, records=records)
