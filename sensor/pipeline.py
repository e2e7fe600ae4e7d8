"""The one loop: batch to packets, to matches, to evidence.

Runs in every capture worker and in ``sensor read``. A pipeline belongs to one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, repeat
from math import inf
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.decode import decode
from sensor.model import Evidence, FiveTuple, FrameBatch, Match, PacketBatch, PacketStatus, Rule
from sensor.rules.engine.flows import Flow, FlowHash, FlowTable
from sensor.rules.engine.matcher import Matcher, Payloads
from sensor.rules.engine.profile import PROFILES
from sensor.rules.prefilter.networks import EVERYWHERE, Networks

Keep = Literal["threat", "any", "flow"]


class BatchReport(NamedTuple):
    """What came of one batch."""

    cpu: int
    tail: int
    """Of that CPU's ring, once the batch is released."""
    read: int
    undecodable: int
    unmatched: int
    cut: int
    """Scans broken off for their cost."""
    items: list[Evidence]
    batch_ns: int = 0
    """Time from the ring to the pieces, as the wall sees it; 0: the batch was skipped."""
    match_ns: int = 0
    """Of that, matching."""
    fill: float = 0.0
    """The share of the ring that was taken when the batch was read, 0 to 1."""


class Pipeline:
    """Rules, a profile and what is known of the flows; every frame is counted in one of the buckets.

    ``read = undecodable + unmatched + matched``; ``matched`` are the frames that became evidence.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        keep: Keep,
        profile: str = "default",
        *,
        live: bool = True,
        networks: Networks = EVERYWHERE,
    ) -> None:
        """``keep`` names what makes a frame evidence.

        ``threat``: a hit of a threat rule; ``any``: a hit of any rule; ``flow``: it is the first
        packet with payload of its flow, or the first sent to where that one came from.
        ``profile`` names one of `sensor.rules.engine.profile.PROFILES`; ``live`` is False for capture files.
        Only packets of ``networks`` are matched.
        """
        self.read = 0
        self.undecodable = 0
        self.unmatched = 0
        self.matched = 0
        self.match_ns = 0
        """Time that matching took, as the wall sees it."""
        self._keep = keep
        self._networks = networks
        self._profile = chosen = PROFILES[profile]
        self.matcher = Matcher(rules, chosen.http)
        ends = live or chosen.ends_in_files
        self.flows = FlowTable(chosen.idle_s if ends else inf, chosen.life_s if ends else inf)
        self._flow_hash = FlowHash(chosen.flow_has_tos)
        self._labels = keep == "flow" or chosen.once
        """Whether more is remembered of a flow than how many packets it had."""
        self._needs_flows = self._labels or chosen.depth is not None

    def counts(self) -> tuple[int, int, int, int, int]:
        """Return frames read, undecodable, unmatched, scans cut short, nanoseconds of matching, so far."""
        return self.read, self.undecodable, self.unmatched, self.matcher.cut, self.match_ns

    def process(self, batch: FrameBatch) -> list[Evidence]:
        """Match every frame of the batch, in order; the evidence owns its bytes."""
        packets = decode(batch)
        undecodable = int(np.isin(packets.status, (PacketStatus.UNKNOWN, PacketStatus.MALFORMED)).sum())
        evidence = list(self._evidence(batch, packets))
        self.read += len(batch)
        self.undecodable += undecodable
        self.matched += len(evidence)
        self.unmatched += len(batch) - undecodable - len(evidence)
        return evidence

    def _evidence(self, batch: FrameBatch, packets: PacketBatch) -> Iterator[Evidence]:
        """Match the packets that their flows allow, and judge those that match."""
        frames = np.frombuffer(batch.buffer, np.uint8)
        chosen = self._networks.watched(frames, packets, self._candidates(packets))
        start, end = packets.payload_start[chosen], packets.payload_end[chosen]
        is_http = self._profile.http.matches_each(frames, start, end)
        numbers, flows = self._count(batch, packets, chosen)
        if self._profile.depth is not None:
            early = numbers <= self._profile.depth
            if self._profile.http_at_any_depth:
                early |= is_http
            chosen, start, end, is_http = chosen[early], start[early], end[early], is_http[early]
            flows = list(compress(flows, early.tolist())) if flows else flows
        ports = packets.protocol[chosen], packets.sport[chosen], packets.dport[chosen]
        started_ns = time.perf_counter_ns()
        found = self.matcher.match_each(batch.buffer, Payloads(start, end, *ports, is_http))
        self.match_ns += time.perf_counter_ns() - started_ns
        if self._keep == "any" and not self._profile.once:
            judged = [(chosen.item(position), matches) for position, matches in found]
        else:
            judged = list(self._judge(batch, packets, chosen, flows, dict(found)))
        return _items(batch, packets, judged)

    def _candidates(self, packets: PacketBatch) -> NDArray[np.intp]:
        """Positions of the packets whose payload is matched as far as their flow allows."""
        length = packets.payload_end - packets.payload_start
        chosen = (packets.status == PacketStatus.PAYLOAD) | (packets.status == PacketStatus.FRAGMENT)
        chosen &= length > 0
        if self._profile.longest is not None:
            chosen &= length <= self._profile.longest
        return np.flatnonzero(chosen)

    def _count(
        self, batch: FrameBatch, packets: PacketBatch, chosen: NDArray[np.intp]
    ) -> tuple[NDArray[np.int64], list[Flow]]:
        """Return which packet of its flow each is, as far as that matters, and where labels matter the flows.

        The kernel has counted most packets of live frames; the others are counted here.
        """
        nobody = np.zeros(len(batch), np.int64)
        numbers = (nobody if batch.flow_packets is None else batch.flow_packets)[chosen]
        own = np.arange(len(chosen)) if self._labels else np.flatnonzero(numbers == 0)
        if not self._needs_flows or not len(own):
            return numbers, []
        births = nobody if batch.flow_born_jiffies is None else batch.flow_born_jiffies
        which = chosen[own]
        rows = zip(
            self._flow_hash.keys(np.frombuffer(batch.buffer, np.uint8), packets, which).tolist(),
            numbers[own].tolist(),
            births[which].tolist(),
            batch.timestamp_ns[which].tolist(),
            strict=True,
        )
        flows, counted = [], []
        for key, number, born_jiffies, now_ns in rows:
            flow = self.flows.known(key, born_jiffies) if number else self.flows.count(key, now_ns)
            flows.append(flow)
            counted.append(number or flow.packets)
        numbers[own] = counted
        return numbers, flows if self._labels else []

    def _judge(
        self,
        batch: FrameBatch,
        packets: PacketBatch,
        chosen: NDArray[np.intp],
        flows: list[Flow],
        found: dict[int, tuple[Match, ...]],
    ) -> Iterator[tuple[int, tuple[Match, ...]]]:
        """Yield the packets that are kept, and the matches that count."""
        by_flow, once = self._keep == "flow", self._profile.once
        for position, index in enumerate(chosen.tolist()):
            matches = found.get(position, ())
            if by_flow or (once and matches):
                flow = flows[position]
                if flow.is_named:
                    continue
                source, destination = addresses(batch.buffer, packets, index)
                opens = by_flow and flow.opens(source, destination)
                if once:
                    matches = flow.label(matches, source)
            if opens if by_flow else any(self._counts(match) for match in matches):
                yield index, matches

    def _counts(self, match: Match) -> bool:
        return self._keep == "any" or match.rule.rule_class == "threat"


def addresses(buffer: memoryview, packets: PacketBatch, index: int) -> tuple[bytes, bytes]:
    """Return the packed source and destination address of a packet that has an IP header."""
    start = packets.source_offset.item(index)
    width = 4 if packets.ip_version.item(index) == 4 else 16
    both = bytes(buffer[start : start + 2 * width])
    return both[:width], both[width:]


def _items(
    batch: FrameBatch, packets: PacketBatch, judged: Sequence[tuple[int, tuple[Match, ...]]]
) -> Iterator[Evidence]:
    """Make evidence of packets, column by column: a step for each piece would cost more than its match."""
    if not judged:
        return iter(())
    index = np.array([one for one, _ in judged])
    buffer, start = batch.buffer, batch.start[index]
    spans = zip(start.tolist(), (start + batch.caplen[index]).tolist(), strict=True)
    return map(
        Evidence._make,
        zip(
            [buffer[first:end].tobytes() for first, end in spans],
            batch.timestamp_ns[index].tolist(),
            batch.wirelen[index].tolist(),
            repeat(batch.linktype, len(index)),
            batch.interface[index].tolist(),
            _five_tuples(batch, packets, index),
            _vlans(packets, index),
            (packets.payload_start[index] - start).tolist(),
            (packets.payload_end[index] - start).tolist(),
            [matches for _, matches in judged],
            strict=True,
        ),
    )


def _five_tuples(batch: FrameBatch, packets: PacketBatch, index: NDArray[np.intp]) -> Iterator[FiveTuple]:
    source, destination = _addresses(batch, packets, index)
    sport, dport = packets.sport[index].tolist(), packets.dport[index].tolist()
    protocol = packets.protocol[index].tolist()
    return map(FiveTuple._make, zip(protocol, source, sport, destination, dport, strict=True))


def _addresses(
    batch: FrameBatch, packets: PacketBatch, index: NDArray[np.intp]
) -> tuple[list[bytes], list[bytes]]:
    """Return the packed source and destination addresses of packets that have an IP header."""
    octets = np.frombuffer(batch.buffer, np.uint8)
    columns = np.empty((2, len(index)), object)
    versions = packets.ip_version[index]
    for version, width in ((4, 4), (6, 16)):
        of_version = np.flatnonzero(versions == version)
        if len(of_version):
            first = packets.source_offset[index[of_version], None, None] + [[0], [width]]
            columns[:, of_version] = octets[first + np.arange(width)].view(f"V{width}")[:, :, 0].T.tolist()
    source, destination = columns.tolist()
    return source, destination


def _vlans(packets: PacketBatch, index: NDArray[np.intp]) -> Iterable[tuple[int, ...]]:
    counts = packets.vlan_count[index]
    if not counts.any():
        return repeat((), len(index))
    return [
        tuple(tci[:tags]) for tci, tags in zip(packets.vlan_tci[index].tolist(), counts.tolist(), strict=True)
    ]
