"""The processing loop: a batch of frames becomes packets, matches and evidence, in columns.

Runs in every capture worker and in ``sensor read``. A pipeline belongs to one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import copy
from math import inf
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.capture.fair_shares import FairShares
from sensor.decode import decode
from sensor.evidence.block import EvidenceBlock, block_of_packets
from sensor.model import FrameBatch, PacketBatch, PacketStatus, Role
from sensor.native.source_table import SourceColumns
from sensor.rules.engine.flows import FlowHash, FlowTable
from sensor.rules.engine.matcher import Matcher, Matches, Payloads
from sensor.rules.engine.profile import PROFILES
from sensor.rules.prefilter.networks import EVERYWHERE, Networks

Keep = Literal["threat", "any", "flow"]

_HIT_OR_AFTER = np.array([Role.HIT, Role.AFTER], np.uint8)


class Turn(NamedTuple):
    """The result of some frames of a batch: those after the turn before."""

    end: int
    """Position of the frame after the last one."""
    block: EvidenceBlock
    """Their evidence; it owns its bytes."""


class _Candidates(NamedTuple):
    """Packets of a batch whose flows allow them to be matched."""

    chosen: NDArray[np.intp]
    """Positions in the batch."""
    serials: NDArray[np.uint64]
    """Their flows; empty unless it matters what was found in these."""
    payloads: Payloads

    def select(self, part: slice | NDArray[np.intp] | NDArray[np.bool_]) -> _Candidates:
        serials = self.serials[part] if len(self.serials) else self.serials
        return _Candidates(self.chosen[part], serials, self.payloads.select(part))


class _Hits(NamedTuple):
    """The packets of a turn that become evidence for what is in them."""

    chosen: NDArray[np.intp]
    """Positions in the batch."""
    matches: NDArray[np.int64]
    """The number of counted matches of each."""
    rules: NDArray[np.uint32]
    """The rule of each counted match."""
    incomplete: NDArray[np.bool_]
    """True if the search was cut."""


class Pipeline:
    """Turns batches of frames into evidence, with one set of rules, one profile and one flow table.

    Every frame is counted in exactly one bucket: ``read = undecodable + unmatched + sampled + matched +
    context``. ``matched`` frames became evidence for what is in them, ``context`` frames because their flow
    is followed.
    """

    def __init__(
        self,
        matcher: Matcher,
        keep: Keep,
        profile: str = "default",
        *,
        live: bool = True,
        networks: Networks = EVERYWHERE,
        digest: str = "",
    ) -> None:
        """Match with ``matcher``, whose `HttpReading` is that of the profile.

        ``keep`` says which frames become evidence. ``threat``: a threat rule matches; ``any``: any rule
        matches; ``flow``: the frame is the first packet with payload of its flow, or the first answer to it.
        ``profile`` is a name in `sensor.rules.engine.profile.PROFILES`; ``live`` is False for capture files.
        Only packets from or to ``networks`` are matched. ``digest`` is that of the files of the rules.
        """
        self.read = 0
        self.undecodable = 0
        self.malformed = 0
        """Those of the undecodable frames that contradict themselves or are cut short."""
        self.unmatched = 0
        self.sampled = 0
        """Frames that were not matched because their source had had its share of an overloaded worker."""
        self.matched = 0
        self.context = 0
        self.match_ns = 0
        """Wall-clock time spent on matching."""
        self.beat: Callable[[], None] = lambda: None
        """Called after each stage, as a sign of life."""
        self.shares: FairShares | None = None
        """How sources share the time of this worker; None: everything is matched, however long it takes."""
        self._keep = keep
        self._networks = networks
        self._profile = chosen = PROFILES[profile]
        self._use(matcher, digest)
        ends = live or chosen.ends_in_files
        self.flows = FlowTable(chosen.idle_s if ends else inf, chosen.life_s if ends else inf)
        self.flow_hash = FlowHash(chosen.flow_has_tos)
        self._labels = keep == "flow" or chosen.once
        """True if it matters what was found earlier in a flow, not only its number of packets."""

    def with_matcher(self, matcher: Matcher, digest: str = "") -> Pipeline:
        """Return a copy with other rules; the flow table and the hash of its keys stay the same."""
        other = copy(self)
        other._use(matcher, digest)
        return other

    def _use(self, matcher: Matcher, digest: str) -> None:
        self.matcher = matcher
        self.digest = digest
        self._is_threat = np.array([rule.rule_class == "threat" for rule in matcher.rules], np.bool_)

    def counts(self) -> tuple[int, int, int, int, int, int]:
        """Return totals: frames read, undecodable, unmatched, sampled; payloads cut; ns of matching."""
        frames = self.read, self.undecodable, self.unmatched, self.sampled
        return *frames, self.matcher.cut, self.match_ns

    def process(self, batch: FrameBatch) -> EvidenceBlock:
        """Match every frame of the batch and return the evidence, in order; it owns its bytes."""
        [turn] = self.turns(batch)
        return turn.block

    def turns(self, batch: FrameBatch, turn_ns: int = 0) -> Iterator[Turn]:
        """Match every frame of the batch, in order, in turns that last ``turn_ns`` and a little more.

        There is one turn if that is 0. A batch is decoded, and its packets are counted in their flows, in the
        first turn.
        """
        started_ns = time.monotonic_ns()
        frames, packets = np.frombuffer(batch.buffer, np.uint8), decode(batch)
        is_undecodable = (packets.status == PacketStatus.UNKNOWN) | (packets.status == PacketStatus.MALFORMED)
        self.beat()
        candidates = self._choose(batch, frames, packets)
        match = self._match_fairly if self.shares else self._match_all
        start = 0
        while True:
            self.beat()
            stop_ns, match_ns = started_ns + turn_ns if turn_ns else 0, self.match_ns
            done, is_sampled, hits = match(batch, frames, packets, candidates, stop_ns)
            end = int(candidates.chosen[done]) if done < len(candidates.chosen) else len(batch)
            context = _context(batch, start, end, ~is_undecodable, hits.chosen)
            block = self._block(batch, frames, packets, hits, context)
            undecodable = int(is_undecodable[start:end].sum())
            sampled = candidates.chosen[:done][is_sampled]
            if len(context):
                sampled = np.setdiff1d(sampled, context, assume_unique=True)
            self.read += end - start
            self.undecodable += undecodable
            self.malformed += int((packets.status[start:end] == PacketStatus.MALFORMED).sum())
            self.sampled += len(sampled)
            self.matched += len(hits.chosen)
            self.context += len(context)
            self.unmatched += end - start - undecodable - len(sampled) - len(block)
            if self.shares:
                took_ns = time.monotonic_ns() - started_ns
                self.shares.note_turn(took_ns - (self.match_ns - match_ns), end - start)
            yield Turn(end, block)
            if end == len(batch):
                return
            start, started_ns = end, time.monotonic_ns()
            candidates = candidates.select(slice(done, None))

    def _choose(self, batch: FrameBatch, frames: NDArray[np.uint8], packets: PacketBatch) -> _Candidates:
        """Choose the packets whose flows allow them to be matched."""
        chosen = self._networks.watched(frames, packets, self._candidates(packets))
        payloads = self._payloads(frames, packets, chosen)
        serials, is_early = self._count(batch, packets, chosen, payloads.is_http)
        return _Candidates(chosen, serials, payloads).select(is_early)

    def _match_all(
        self,
        batch: FrameBatch,
        frames: NDArray[np.uint8],
        packets: PacketBatch,
        candidates: _Candidates,
        stop_ns: int,
    ) -> tuple[int, NDArray[np.bool_], _Hits]:
        """Match candidates until ``stop_ns``.

        Returns the number done; True for each of those that was not matched, as its source had had its share;
        and the evidence among them.
        """
        matches = self._match(batch, candidates.payloads, stop_ns)
        done = len(matches.incomplete)
        hits, _ = self._hits(batch, frames, packets, candidates.select(slice(done)), matches)
        return done, np.zeros(done, np.bool_), hits

    def _match_fairly(
        self,
        batch: FrameBatch,
        frames: NDArray[np.uint8],
        packets: PacketBatch,
        candidates: _Candidates,
        stop_ns: int,
    ) -> tuple[int, NDArray[np.bool_], _Hits]:
        """Match only candidates that their sources' shares admit, and charge them; see `_match_all`."""
        assert self.shares  # noqa: S101 - for the type checker
        chosen, _, payloads = candidates
        addresses = packets.source_offset[chosen], packets.ip_version[chosen]
        columns = SourceColumns(*addresses, payloads.sport, payloads.dport, batch.timestamp_ns[chosen])
        admitted = np.flatnonzero(self.shares.admit(frames, columns))
        before_ns = self.match_ns
        matches = self._match(batch, payloads.select(admitted), stop_ns)
        took_ns = self.match_ns - before_ns
        matched = len(matches.incomplete)
        done = int(admitted[matched]) if matched < len(admitted) else len(chosen)
        admitted = admitted[:matched]
        hits, kept = self._hits(batch, frames, packets, candidates.select(admitted), matches)
        cost_ns, is_evidence = np.full(done, -1), np.zeros(done, np.bool_)
        cost_ns[admitted] = matches.cost_ns
        is_evidence[admitted[kept]] = True
        self.shares.charge(frames, columns.part(slice(done)), cost_ns, is_evidence, took_ns)
        is_sampled = np.ones(done, np.bool_)
        is_sampled[admitted] = False
        return done, is_sampled, hits

    def _match(self, batch: FrameBatch, payloads: Payloads, stop_ns: int) -> Matches:
        started_ns = time.perf_counter_ns()
        matches = self.matcher.matches(batch.buffer, payloads, stop_ns, measure=bool(self.shares))
        self.match_ns += time.perf_counter_ns() - started_ns
        self.beat()
        return matches

    def _hits(
        self,
        batch: FrameBatch,
        frames: NDArray[np.uint8],
        packets: PacketBatch,
        matched: _Candidates,
        matches: Matches,
    ) -> tuple[_Hits, NDArray[np.intp]]:
        """Return the evidence among the packets that were matched, and its positions among them."""
        kept, counts, rules = self._select(batch, frames, packets, matched, matches)
        return _Hits(matched.chosen[kept], counts[kept], rules, matches.incomplete[kept]), kept

    def _block(
        self,
        batch: FrameBatch,
        frames: NDArray[np.uint8],
        packets: PacketBatch,
        hits: _Hits,
        context: NDArray[np.intp],
    ) -> EvidenceBlock:
        """Return the evidence of a turn: packets with matches, and the context of others."""
        chosen, counts, incomplete = hits.chosen, hits.matches, hits.incomplete
        roles: NDArray[np.uint8] | Role = Role.HIT
        if len(context):
            without = np.zeros(len(context), np.int64)
            chosen = np.concatenate([chosen, context])
            order = np.argsort(chosen, kind="stable")
            chosen, counts = chosen[order], np.concatenate([counts, without])[order]
            incomplete = np.concatenate([incomplete, without.astype(np.bool_)])[order]
            roles = np.repeat([Role.HIT, Role.AFTER], [len(hits.chosen), len(context)])[order].astype(
                np.uint8
            )
        return block_of_packets(
            batch,
            packets,
            chosen,
            self.flow_hash.keys(frames, packets, chosen),
            counts,
            hits.rules,
            self.matcher.rules,
            self.matcher.http,
            self.digest,
            incomplete=incomplete,
            roles=roles,
        )

    def _candidates(self, packets: PacketBatch) -> NDArray[np.intp]:
        """Return the positions of the packets that can be matched if their flow allows it."""
        length = packets.payload_end - packets.payload_start
        chosen = (packets.status == PacketStatus.PAYLOAD) | (packets.status == PacketStatus.FRAGMENT)
        chosen &= length > 0
        if self._profile.longest is not None:
            chosen &= length <= self._profile.longest
        return np.flatnonzero(chosen)

    def _payloads(
        self, frames: NDArray[np.uint8], packets: PacketBatch, chosen: NDArray[np.intp]
    ) -> Payloads:
        start, end = packets.payload_start[chosen], packets.payload_end[chosen]
        ports = packets.protocol[chosen], packets.sport[chosen], packets.dport[chosen]
        return Payloads(start, end, *ports, self._profile.http.matches_each(frames, start, end))

    def _count(
        self,
        batch: FrameBatch,
        packets: PacketBatch,
        chosen: NDArray[np.intp],
        is_http: NDArray[np.bool_],
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Count packets in their flows; return their flows, and True for those early enough to match.

        The kernel has numbered most packets of live frames; the others are numbered here. The flows are
        returned only if it matters what was found in them.
        """
        depth = self._profile.depth
        no_flows = np.empty(0, np.uint64)
        if depth is None and not self._labels:
            return no_flows, np.ones(len(chosen), np.bool_)
        uncounted = np.zeros(len(batch), np.int64)
        numbers = (uncounted if batch.flow_packets is None else batch.flow_packets)[chosen]
        births = (uncounted if batch.flow_born_jiffies is None else batch.flow_born_jiffies)[chosen]
        own = np.arange(len(chosen)) if self._labels else np.flatnonzero(numbers == 0)
        keys = self.flow_hash.keys(np.frombuffer(batch.buffer, np.uint8), packets, chosen[own])
        own_numbers = numbers[own]
        columns = keys, own_numbers, births[own], batch.timestamp_ns[chosen[own]]
        serials = self.flows.count(*columns, batch.positions(chosen[own]))
        numbers[own] = own_numbers
        is_early = np.ones(len(chosen), np.bool_) if depth is None else numbers <= depth
        if self._profile.http_at_any_depth:
            is_early |= is_http
        return serials if self._labels else no_flows, is_early

    def _select(
        self,
        batch: FrameBatch,
        frames: NDArray[np.uint8],
        packets: PacketBatch,
        matched: _Candidates,
        matches: Matches,
    ) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.uint32]]:
        """Decide which packets become evidence.

        Returns the positions of those packets among the matched ones, the number of counted matches of each
        matched packet, and the rules of the counted matches of the evidence.
        """
        chosen, serials, _ = matched
        counts = np.bincount(matches.payload, minlength=len(chosen)).astype(np.int64)
        if self._labels:
            first = np.append(0, np.cumsum(counts))
            rules = [self.matcher.rules[number] for number in matches.rule.tolist()]
            by_flow, once = self._keep == "flow", self._profile.once
            keep_packet, keep_match = self.flows.label(
                serials,
                frames,
                packets,
                chosen,
                first,
                rules,
                batch.positions(chosen),
                by_flow=by_flow,
                once=once,
                only_threats=self._keep == "threat",
            )
            keep_match &= keep_packet[matches.payload]
            counts = np.bincount(matches.payload[keep_match], minlength=len(chosen)).astype(np.int64)
            return np.flatnonzero(keep_packet), counts, matches.rule[keep_match]
        if self._keep == "threat":
            has_threat = np.zeros(len(chosen), np.bool_)
            has_threat[matches.payload[self._is_threat[matches.rule]]] = True
            return np.flatnonzero(has_threat), counts, matches.rule[has_threat[matches.payload]]
        return np.flatnonzero(counts), counts, matches.rule


def _context(
    batch: FrameBatch,
    start: int,
    end: int,
    is_decodable: NDArray[np.bool_],
    hits: NDArray[np.intp],
) -> NDArray[np.intp]:
    """Return the frames from ``start`` to ``end`` whose flow is followed, without ``hits``."""
    if batch.is_followed is None:
        return np.empty(0, np.intp)
    wanted = batch.is_followed & is_decodable
    wanted[:start] = wanted[end:] = False
    wanted[hits] = False
    return np.flatnonzero(wanted)
