"""The processing loop: a batch of frames becomes packets, matches and evidence.

Runs in every capture worker and in ``sensor read``. A pipeline belongs to one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import compress, repeat
from math import inf
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.decode import decode
from sensor.model import Evidence, FrameBatch, Match, PacketBatch, PacketStatus
from sensor.rules.engine.flows import Flow, FlowHash, FlowTable
from sensor.rules.engine.matcher import Matcher, Payloads
from sensor.rules.engine.profile import PROFILES
from sensor.rules.prefilter.networks import EVERYWHERE, Networks

Keep = Literal["threat", "any", "flow"]


class BatchReport(NamedTuple):
    """The result of one batch."""

    cpu: int
    tail: int
    """Tail position of that CPU's ring after the batch is released."""
    read: int
    undecodable: int
    unmatched: int
    cut: int
    """Scans stopped for their cost."""
    items: list[Evidence]
    batch_ns: int = 0
    """Wall-clock time from the ring to the evidence; 0 if the batch was skipped."""
    match_ns: int = 0
    """The part of ``batch_ns`` spent on matching."""
    fill: float = 0.0
    """How full the ring was when the batch was read, 0 to 1."""


class Pipeline:
    """Turns batches of frames into evidence, with one set of rules, one profile and one flow table.

    Every frame is counted in exactly one bucket: ``read = undecodable + unmatched + matched``, where
    ``matched`` frames are those that became evidence.
    """

    def __init__(
        self,
        matcher: Matcher,
        keep: Keep,
        profile: str = "default",
        *,
        live: bool = True,
        networks: Networks = EVERYWHERE,
    ) -> None:
        """Match with ``matcher``, whose `HttpReading` is that of the profile.

        ``keep`` says which frames become evidence. ``threat``: a threat rule matches; ``any``: any rule
        matches; ``flow``: the frame is the first packet with payload of its flow, or the first answer to it.
        ``profile`` is a name in `sensor.rules.engine.profile.PROFILES`; ``live`` is False for capture files.
        Only packets from or to ``networks`` are matched.
        """
        self.read = 0
        self.undecodable = 0
        self.unmatched = 0
        self.matched = 0
        self.match_ns = 0
        """Wall-clock time spent on matching."""
        self._keep = keep
        self._networks = networks
        self._profile = chosen = PROFILES[profile]
        self.matcher = matcher
        ends = live or chosen.ends_in_files
        self.flows = FlowTable(chosen.idle_s if ends else inf, chosen.life_s if ends else inf)
        self._flow_hash = FlowHash(chosen.flow_has_tos)
        self._labels = keep == "flow" or chosen.once
        """True if a flow needs its `Flow` object, not only its number of packets."""
        self._needs_flows = self._labels or chosen.depth is not None

    def with_matcher(self, matcher: Matcher) -> Pipeline:
        """Return a copy with other rules; the flow table and the hash of its keys stay the same."""
        other = copy(self)
        other.matcher = matcher
        return other

    def counts(self) -> tuple[int, int, int, int, int]:
        """Return totals: frames read, undecodable, unmatched; scans cut; nanoseconds of matching."""
        return self.read, self.undecodable, self.unmatched, self.matcher.cut, self.match_ns

    def process(self, batch: FrameBatch) -> list[Evidence]:
        """Match every frame of the batch and return the evidence, in order; it owns its bytes."""
        packets = decode(batch)
        undecodable = int(np.isin(packets.status, (PacketStatus.UNKNOWN, PacketStatus.MALFORMED)).sum())
        evidence = list(self._evidence(batch, packets))
        self.read += len(batch)
        self.undecodable += undecodable
        self.matched += len(evidence)
        self.unmatched += len(batch) - undecodable - len(evidence)
        return evidence

    def _evidence(self, batch: FrameBatch, packets: PacketBatch) -> Iterator[Evidence]:
        """Match the packets whose flows allow it, and yield the evidence."""
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
            kept = [(chosen.item(position), matches) for position, matches in found]
        else:
            kept = list(self._select(batch, packets, chosen, flows, dict(found)))
        return evidence_items(batch, packets, kept)

    def _candidates(self, packets: PacketBatch) -> NDArray[np.intp]:
        """Return the positions of the packets that can be matched if their flow allows it."""
        length = packets.payload_end - packets.payload_start
        chosen = (packets.status == PacketStatus.PAYLOAD) | (packets.status == PacketStatus.FRAGMENT)
        chosen &= length > 0
        if self._profile.longest is not None:
            chosen &= length <= self._profile.longest
        return np.flatnonzero(chosen)

    def _count(
        self, batch: FrameBatch, packets: PacketBatch, chosen: NDArray[np.intp]
    ) -> tuple[NDArray[np.int64], list[Flow]]:
        """Return each packet's number in its flow, and the flows if the profile labels them.

        The kernel has numbered most packets of live frames; the others are numbered here. Numbers stay 0
        if neither the profile nor ``keep`` depends on them.
        """
        uncounted = np.zeros(len(batch), np.int64)
        numbers = (uncounted if batch.flow_packets is None else batch.flow_packets)[chosen]
        own = np.arange(len(chosen)) if self._labels else np.flatnonzero(numbers == 0)
        if not self._needs_flows or not len(own):
            return numbers, []
        births = uncounted if batch.flow_born_jiffies is None else batch.flow_born_jiffies
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
            flow = self.flows.find(key, born_jiffies) if number else self.flows.count(key, now_ns)
            flows.append(flow)
            counted.append(number or flow.packets)
        numbers[own] = counted
        return numbers, flows if self._labels else []

    def _select(
        self,
        batch: FrameBatch,
        packets: PacketBatch,
        chosen: NDArray[np.intp],
        flows: list[Flow],
        found: dict[int, tuple[Match, ...]],
    ) -> Iterator[tuple[int, tuple[Match, ...]]]:
        """Yield the position and the counted matches of each packet that is kept."""
        by_flow, once = self._keep == "flow", self._profile.once
        positions = list(range(len(chosen)) if by_flow else found)
        index = chosen[positions]
        sources, destinations = packets.addresses(batch.buffer, index)
        for position, number, source, destination in zip(
            positions, index.tolist(), sources, destinations, strict=True
        ):
            matches = found.get(position, ())
            if self._labels:
                flow = flows[position]
                if flow.is_fully_labelled:
                    continue
                opens = by_flow and flow.opens(source, destination)
                if once:
                    matches = flow.label(matches, source)
            if opens if by_flow else any(self._counts(match) for match in matches):
                yield number, matches

    def _counts(self, match: Match) -> bool:
        return self._keep == "any" or match.rule.rule_class == "threat"


def evidence_items(
    batch: FrameBatch, packets: PacketBatch, kept: Sequence[tuple[int, tuple[Match, ...]]]
) -> Iterator[Evidence]:
    """Return the evidence for packets, given by their positions and matches.

    Works column by column, because a loop over the items would cost more than matching them.
    """
    if not kept:
        return iter(())
    index = np.array([position for position, _ in kept])
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
            packets.five_tuples(buffer, index),
            _vlans(packets, index),
            np.maximum(packets.payload_start[index] - start, 0).tolist(),
            np.maximum(packets.payload_end[index] - start, 0).tolist(),
            [matches for _, matches in kept],
            strict=True,
        ),
    )


def _vlans(packets: PacketBatch, index: NDArray[np.intp]) -> Iterable[tuple[int, ...]]:
    counts = packets.vlan_count[index]
    if not counts.any():
        return repeat((), len(index))
    return [
        tuple(tci[:tags]) for tci, tags in zip(packets.vlan_tci[index].tolist(), counts.tolist(), strict=True)
    ]
